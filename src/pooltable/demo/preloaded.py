"""What the workers of the demonstration import, once for all of them: it takes longer than to load the model.

ONNX Runtime is left out. It starts a thread when it is imported, and a forked worker would be without it.
"""

import av  # noqa: F401
import cv2  # noqa: F401
from rapidocr import RapidOCR  # noqa: F401
