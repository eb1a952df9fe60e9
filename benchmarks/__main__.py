"""All questions, one after the other: `python -m benchmarks [--quick] [--peers] [--only NAME ...] [--out FOLDER]`.

Each result is written as soon as it is there; a question that fails does not keep the others from being asked. At the
end stands whether the aims are met.
"""

from __future__ import annotations

import sys
import time
import traceback

from .aims import aims_table, save_verdicts
from .figures import results_in, save
from .progress import as_time
from .question import arguments_of, leave_in_order
from .questions import QUESTIONS

PEERS_FACTOR = 1.8
"""How much longer a question takes with peers."""
QUICK_S = 5.0


def main() -> None:
    """Ask them."""
    names = [question.name for question in QUESTIONS]
    parser, read = arguments_of("all questions, one after the other")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    arguments = parser.parse_args()
    options = read(arguments)
    leave_in_order()
    asked = [question for question in QUESTIONS if question.name in arguments.only]
    takes = [
        QUICK_S if options.quick else q.takes_s * (PEERS_FACTOR if options.peers and q.peers else 1) for q in asked
    ]
    began, failed = time.monotonic(), []
    for number, question in enumerate(asked):
        left = as_time(sum(takes[number:]))
        head = f"[{number + 1}/{len(asked)}] {question.name}: {question.asks}"
        print(f"{head} (about {as_time(takes[number])}, all that is left {left})", file=sys.stderr, flush=True)
        try:
            result = question.measure(options)
        except Exception as error:
            traceback.print_exc()
            failed.append(f"{question.name}: {error}")
            continue
        save(result, arguments.out)
    print(f"{len(asked) - len(failed)} of {len(asked)} questions in {as_time(time.monotonic() - began)}\n")
    print(aims_table(save_verdicts(results_in(arguments.out), arguments.out)))
    if failed:
        sys.exit("\n".join(["", "not answered:", *failed]))


if __name__ == "__main__":
    main()
