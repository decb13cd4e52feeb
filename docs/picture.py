"""The picture of a terminal in the README, drawn from a session that really took place.

python docs/picture.py            run the session, and write docs/terminal.svg anew if it shows another
python docs/picture.py --check    change nothing; exit 1 where it shows another
"""

from __future__ import annotations

import html
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURE = Path(__file__).resolve().parent / "terminal.svg"
COLUMNS = 92
SESSION = """\
python -c 'import numpy as np; np.save("rho.npy", np.diag([0.5, 0.3, 0.2]))'
somactl commit state:1=rho.npy --commit-id first
python -c 'import numpy as np; np.save("bad.npy", np.diag([1.2, -0.2, 0.0]))'
somactl commit state:1=bad.npy
somactl rm state:1 --commit-id oops
somactl restore --commit oops --commit-id back
somactl verify-psd --all
"""


def main(arguments: list[str]) -> int:
    """Write or check the picture; the exit code."""
    session = recorded()
    if PICTURE.exists() and shown(PICTURE.read_text(encoding="utf-8")) == shown(drawn(session)):
        return 0
    if arguments == ["--check"]:
        print("docs/terminal.svg shows another session: run `make docs`", file=sys.stderr)
        return 1
    PICTURE.write_text(drawn(session), encoding="utf-8")
    print("wrote docs/terminal.svg")
    return 0


def recorded() -> str:
    """What a terminal shows of the session, colours included."""
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        "LC_ALL": "C.UTF-8",
    }
    screen = []
    with tempfile.TemporaryDirectory(prefix="somactl-picture-") as folder:
        for command in SESSION.splitlines():
            printed = _on_a_terminal(command, folder, environment)
            screen.append(f"\x1b[1;32m$\x1b[0m \x1b[1m{command}\x1b[0m\n{printed}")
    # Which BLAS it was is another on each machine.
    return re.sub(r"(?m)^ *route: .*\n", "", "".join(screen))


def _on_a_terminal(command: str, folder: str, environment: dict[str, str]) -> str:
    """What `command` says on stderr, then on stdout, which is a terminal.

    On a terminal, stderr would also tell what a slow machine waits for.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", command], cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=subprocess.PIPE
    )
    os.close(slave)
    printed = b""
    while True:
        try:
            part = os.read(master, 65536)
        except OSError:  # the command has ended
            break
        if not part:
            break
        printed += part
    os.close(master)
    _, said = process.communicate()
    return said.decode() + printed.decode().replace("\r\n", "\n")


def drawn(session: str) -> str:
    """The session as SVG, without the fonts that rich would fetch from elsewhere."""
    from rich.console import Console
    from rich.text import Text

    with open(os.devnull, "w") as nowhere:
        console = Console(
            record=True, width=COLUMNS, file=nowhere, force_terminal=True, color_system="truecolor"
        )
        console.print(Text.from_ansi(session), soft_wrap=False)
        picture = console.export_svg(title="somactl", unique_id="somactl")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    picture = re.sub(r"<!--.*?-->\s*", "", picture, flags=re.DOTALL)
    picture = picture.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    return re.sub(r"[ \t]+$", "", picture, flags=re.MULTILINE).rstrip() + "\n"


def shown(picture: str) -> list[str]:
    """The text of a picture, whichever rich drew it."""
    parts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    return "".join(html.unescape(part) for part in parts).replace("\xa0", " ").split()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
