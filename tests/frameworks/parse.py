"""Ask one framework's own argument parser about command lines. Runs inside that framework's environment.

`parse.py NAME` reads {title: argv} as JSON from standard input and prints {title: what the parser said} for those that
it refused.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import runpy
import sys
from collections.abc import Callable, Iterator
from unittest import mock

Parse = Callable[[list[str]], None]


class Accepted(Exception):
    """The parser has parsed everything; what would come next is the server."""


@contextlib.contextmanager
def stop_after_parsing() -> Iterator[None]:
    """Any ArgumentParser ends the program once it has accepted its arguments."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: object, **kwargs: object) -> None:
        parse(self, *args, **kwargs)
        raise Accepted

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop):
        yield


def vllm() -> Parse:
    from vllm.entrypoints.common.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = make_arg_parser(FlexibleArgumentParser())
    return lambda argv: parser.parse_args(argv[argv.index("serve") + 2 :])


def sglang() -> Parse:
    for name in ("triton", "triton.language", "triton.runtime", "triton.runtime.jit"):  # 1 GB, for kernels only
        sys.modules.setdefault(name, mock.MagicMock())
    from sglang.srt.server_args import ServerArgs
    from sglang.srt.utils.server_args_config_parser import ConfigArgumentMerger

    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)
    # As its own entry point does: the file's arguments are put before those of the command line.
    return lambda argv: parser.parse_args(ConfigArgumentMerger(parser).merge_config_with_args(argv[3:]))


def lmdeploy() -> Parse:
    from lmdeploy.cli.cli import CLI
    from lmdeploy.cli.serve import SubCliServe

    SubCliServe.add_parsers()
    return lambda argv: CLI.parser.parse_args(argv[3:])


def mii() -> Parse:
    def parse(argv: list[str]) -> None:
        with stop_after_parsing(), mock.patch.object(sys, "argv", ["mii", *argv[3:]]):
            runpy.run_module(argv[2], run_name="__main__")

    return parse


def transformers() -> Parse:
    from transformers.cli.transformers import app

    serve = app.commands["serve"]
    return lambda argv: serve.make_context("serve", argv[argv.index("serve") + 1 :])


def main() -> None:
    asked = json.load(sys.stdin)
    refused = {}
    # Frameworks print to standard output while they are imported.
    with contextlib.redirect_stdout(sys.stderr):
        parse = globals()[sys.argv[1]]()
        for title, argv in asked.items():
            said = io.StringIO()
            try:
                with contextlib.redirect_stderr(said):
                    parse(argv)
            except Accepted:
                pass
            except SystemExit as error:
                if error.code:
                    refused[title] = said.getvalue().strip().splitlines()[-1]
            except Exception as error:  # whatever a parser raises is a refusal
                refused[title] = f"{type(error).__name__}: {error}"
    print(json.dumps(refused))


if __name__ == "__main__":
    main()
