"""Jobs that Spark runs: one thin file per stage, each with run(context) for the command line and main() for spark-submit."""
