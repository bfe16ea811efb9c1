"""The user's own table as a queue: claims, finishes, leases and rescues, one short transaction each."""
