"""Draws a chat as it really went: types into gma-chat in a pseudo-terminal, keeps the screen.

Run with a server serving:
    .venv/bin/python tools/chat_picture.py --server 127.0.0.1:50051 --out docs/images/chat.png
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

import matplotlib
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "integration"))

from chat_terminal import ChatTerminal  # noqa: E402

COLOURS = {"0": "#d8dee9", "90": "#7b8494", "1;36": "#7fdbca"}
BACKGROUND, BAR = "#1b1f27", "#2b313c"
COLUMNS, SIZE, MARGIN = 96, 22, 28
LINES = [
    "What is the capital of France?",
    "What is it famous for? Two sentences.",
    "/stats",
]


def record(binary: Path, server: str, flags: list[str], lines: list[str]) -> str:
    """The bytes that a terminal receives while somebody types `lines`, prompts included."""
    with tempfile.TemporaryDirectory() as home:
        command = [binary, "--server", server, *flags]
        with ChatTerminal(command, Path(home)) as terminal:
            terminal.wait_for_prompt()
            for line in lines:
                for key in line:
                    terminal.type(key)
                    time.sleep(0.005)
                terminal.type("\r")
                terminal.wait_for("\n> ", timeout=120)
            terminal.type("\x04")
            terminal.wait_for_end()
            return terminal.raw


def screen_of(raw: str) -> list[list[tuple[str, str]]]:
    """Lines of (character, colour): what `raw` leaves on a screen as wide as it likes."""
    lines: list[list[tuple[str, str]]] = [[]]
    column, colour = 0, COLOURS["0"]
    for code, final, character in re.findall(r"\x1b\[([0-9;?]*)([A-Za-z])|([^\x1b])", raw):
        line = lines[-1]
        if final == "m":
            colour = COLOURS.get(code or "0", COLOURS["0"])
        elif final == "K":
            del line[column:]
        elif final == "C":
            column += int(code or 1)
        elif final == "D":
            column -= int(code or 1)
        elif character == "\n":
            lines.append([])
            column = 0
        elif character == "\r":
            column = 0
        elif character == "\b":
            column = max(column - 1, 0)
        elif character:
            line.extend([(" ", colour)] * (column - len(line)))
            line[column : column + 1] = [(character, colour)]
            column += 1
    return lines


def wrap(line: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Cuts a line at COLUMNS, between words where there are some."""
    rows = []
    while len(line) > COLUMNS:
        spaces = [i for i, (character, _) in enumerate(line[: COLUMNS + 1]) if character == " "]
        cut = spaces[-1] if spaces and spaces[-1] > COLUMNS // 2 else COLUMNS
        rows.append(line[:cut])
        line = line[cut + (cut in spaces) :]
    return [*rows, line]


def draw(rows: list[list[tuple[str, str]]], title: str, out: Path) -> None:
    """Writes the picture of a terminal window."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    font = ImageFont.truetype(str(fonts / "DejaVuSansMono.ttf"), SIZE)
    width, height = font.getlength("M"), int(SIZE * 1.45)
    bar = height + 12
    size = (int(width * COLUMNS) + 2 * MARGIN, bar + height * len(rows) + 2 * MARGIN)
    image = Image.new("RGB", size, BACKGROUND)
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, 0, size[0], bar), fill=BAR)
    canvas.text((size[0] / 2, bar / 2), title, font=font, fill=COLOURS["90"], anchor="mm")
    for number, row in enumerate(rows):
        for column, (character, colour) in enumerate(row):
            place = (MARGIN + column * width, bar + MARGIN + number * height)
            canvas.text(place, character, font=font, fill=colour)
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save(out, optimize=True)


def main() -> None:
    """Records and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument(
        "--binary", type=Path, default=ROOT / "build" / "release" / "bin" / "gma-chat"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "chat.png")
    parser.add_argument("--lines", nargs="*", default=LINES, help="what is typed")
    arguments, flags = parser.parse_known_args()  # what is not known is for gma-chat
    raw = record(arguments.binary, arguments.server, flags, arguments.lines)
    rows = [row for line in screen_of(raw) for row in wrap(line)]
    while rows and not "".join(character for character, _ in rows[-1]).strip(" >"):
        rows.pop()
    draw(rows, "gma-chat", arguments.out)
    print("\n".join("".join(character for character, _ in row) for row in rows))


if __name__ == "__main__":
    main()
