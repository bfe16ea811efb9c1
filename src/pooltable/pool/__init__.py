"""Worker processes: the engine, and the two faces of it that the standard library has."""
