"""A health check without curl: exit code 0 if a URL answers within five seconds, else 1 with one sentence.

In: the URL. Where the answer is a page that gives components a status, as Airflow's health pages do, each must be healthy or absent.
"""

import json
import sys
import urllib.request


def problem(url: str) -> str | None:
    """What is wrong with the service behind a URL; None if nothing is."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            body = answer.read()
    except OSError as error:
        return f"Expected {url} to answer, got {error}."
    try:
        page = json.loads(body)
    except ValueError:
        return None
    parts = {name: part["status"] for name, part in page.items() if isinstance(part, dict) and "status" in part} if isinstance(page, dict) else {}
    ill = [name for name, status in parts.items() if status not in ("healthy", None)]
    return f"Expected every component to be healthy, {ill[0]} is not." if ill else None


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1]))
