"""Run the commands of documentation pages as written, and fill in what they print.

A block of bash commands with a comment below it is run in the current folder by one shell. What it
prints goes through the comment's command into the block of text that follows:

    ```bash
    mim run mmaction print_config configs/sifa_tiny_motion.py
    ```

    <!-- output: head -n 3 -->
    ```text
    ```

A check asks for the same output again, or after "output like:" for the same but for its numbers.

Looked at in its place: sybil, pytest-markdown-docs, pytest-examples and phmdoctest, which are about
Python blocks; cram and prysk, whose tests are no Markdown; mdoctest, for sessions with prompts; and
markdown-code-runner, which fills in outputs. None was found to filter an output and to compare it
but for its numbers, so little would be left out here.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.progress import track

BLOCK = re.compile(
    r'^```bash\n(?P<commands>(?:(?!```).)*)```\n\n'
    r'<!-- output(?P<like> like)?: (?P<filter>[^\n]*?) -->\n'
    r'```text\n(?P<text>(?:(?!```).)*)```',
    re.DOTALL | re.MULTILINE,
)


def main(argv: list[str] | None = None) -> None:
    """Run the pages that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('pages', nargs='+', type=Path, help='Markdown files')
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; fail where the output differs from that of the page',
    )
    args = parser.parse_args(argv)
    for page in args.pages:
        before = page.read_text()
        blocks = list(BLOCK.finditer(before))
        if not blocks:
            sys.exit(f'{page} has no commands with an output comment')
        outputs = [run(block) for block in track(blocks, description=page.name)]
        if args.check:
            for block, output in zip(blocks, outputs, strict=True):
                same = without_numbers if block['like'] else str
                if same(output) != same(block['text']):
                    sys.exit(
                        f'{page}: these commands\n\n{block["commands"]}\nno longer print\n\n'
                        f'{block["text"]}\nbut\n\n{output}\nRun this tool without --check.'
                    )
            continue
        after = before
        for block, output in reversed([*zip(blocks, outputs, strict=True)]):
            start, end = block.span('text')
            after = after[:start] + output + after[end:]
        page.write_text(after)


def run(block: re.Match[str]) -> str:
    """Run a block's commands and return what its filter leaves of their output."""
    done = subprocess.run(
        ['bash', '-euo', 'pipefail', '-c', block['commands']],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {'PYTHONWARNINGS': 'ignore', 'COLUMNS': '100'},
    )
    if done.returncode:
        sys.exit(f'ended with {done.returncode}:\n\n{block["commands"]}\n{done.stdout[-3000:]}')
    kept = subprocess.run(
        ['bash', '-c', block['filter']],
        input=done.stdout,
        capture_output=True,
        text=True,
    )
    if kept.returncode or not kept.stdout.strip():
        sys.exit(
            f'{block["filter"]!r} leaves nothing of what these commands print '
            f'{kept.stderr.strip()}\n\n{block["commands"]}\n{done.stdout[-3000:]}'
        )
    return kept.stdout.rstrip() + '\n'


def without_numbers(text: str) -> str:
    """Return a text without its numbers and the widths that they take in tables."""
    return re.sub(r'\s+', ' ', re.sub(r'\d+(\.\d+)?', '#', text)).strip()


if __name__ == '__main__':
    main()
