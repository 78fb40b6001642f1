"""All benchmarks that need no GPU, one after the other: `python benchmarks`.

Each prints what it ran on, and ratios that were measured side by side.
"""

import subprocess
import sys
from pathlib import Path

for name in ("data", "stored", "graphs", "training", "tokens", "densities", "export"):
    print(f"\n== {name} ==", flush=True)
    subprocess.run([sys.executable, Path(__file__).with_name(f"{name}.py")], check=True)
