"""`lurm evaluate`: methods side by side on the tasks of a data set, with intervals."""

from pathlib import Path

from lurm.commands.arguments import add_command


def add(commands) -> None:
    evaluate = add_command(
        commands, "evaluate", "compare methods on the tasks of a data set, with intervals", _evaluate,
        "examples:\n  lurm evaluate --config evaluate_demo --directory evaluation/demo\n"
        "  lurm evaluate --config evaluate_online_retail --data DATA --directory evaluation/online_retail --methods tfidf,lurm\n"
        "  lurm evaluate --config evaluate_online_retail --data DATA --directory evaluation/online_retail --tables",
        about="Fits each method on the events before a date, reads labels of later events and of the users off what it gives, and compares it with\n"
              "a baseline on the same folds and the same resampled users. What is finished is kept below the directory: the same command goes on.",
    )
    evaluate.add_argument("--config", required=True, metavar="FILE", help="TOML file, or the name of a bundled one (evaluate_demo, ...)")
    evaluate.add_argument("--data", default=".", metavar="FOLDER", help="where the configuration's files lie (default: here)")
    evaluate.add_argument("--directory", metavar="DIR", help="where results go (default: evaluation/NAME)")
    evaluate.add_argument("--methods", metavar="A,B", help="run these and the baseline; the tables show the others too, where they are kept")
    evaluate.add_argument("--tasks", metavar="A,B", help="tasks, or groups of tasks (default: all)")
    evaluate.add_argument("--probes", metavar="A,B", help="some of the configured probes: logistic, logistic-dimension, mlp (default: all)")
    evaluate.add_argument("--fresh", default="", metavar="A,B", help="throw away what is kept of these methods first")
    evaluate.add_argument("--earlier", metavar="DIR", help="show beside them what another run of this configuration has and this one lacks")
    evaluate.add_argument("--tables", action="store_true", help="run nothing: tables and page of what is kept")
    evaluate.add_argument("--quiet", action="store_true", help="only warnings and the result")


def _evaluate(options) -> int:
    from lurm.evaluation.evaluation import evaluate
    from lurm.evaluation.evaluation_settings import load_evaluation, with_probes
    from lurm.report.evaluation_page import evaluation_page
    from lurm.report.page import write_page

    settings = load_evaluation(options.config)
    settings = with_probes(settings, _names(options.probes)) if options.probes else settings
    directory = options.directory or str(Path("evaluation") / settings.name)
    methods = [] if options.tables else _names(options.methods)
    found = evaluate(settings, options.data, directory, methods, _names(options.tasks), _names(options.fresh) or (), earlier=options.earlier)
    write_page(str(Path(directory) / "results.html"), evaluation_page(found.title, found.facts, found.rows, found.runs))
    print(found.markdown)
    print(f"tables and page: {directory}/results.md, results.html, results.parquet, runs.parquet")
    return 1 if any(run["error"] for run in found.runs) else 0


def _names(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None
