"""Worker processes import the toy studies by name, so that their folder must be on the path that workers inherit."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
