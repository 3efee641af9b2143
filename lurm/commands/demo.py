"""`lurm demo`: a synthetic world through every stage, and how much of the truth came back."""

from lurm.commands.arguments import add_command, add_settings


def add(commands) -> None:
    demo = add_command(commands, "demo", "make a synthetic world, run every stage on it and say how well the truth was recovered", _demo,
                       "example:\n  lurm demo --directory demo")
    demo.add_argument("--directory", default="demo", metavar="DIR", help="where world and warehouse go (default: demo)")
    add_settings(demo).set_defaults(config="demo")


def _demo(options) -> int:
    from lurm.evaluation.demo import run_demo

    run_demo(options.directory, options.config, options.overrides)
    return 0
