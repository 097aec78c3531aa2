"""Renders the chart, offline: ``render_chart.py CHART [VALUES-AS-JSON]``. It runs with the package helm-python-sdk."""

from __future__ import annotations

import json
import sys

from helm_python import Chart

HEAD = """\
# The chart of deploy/helm/vectorpool with its default values, for those who use no Helm. Change BUCKET and account, and
# make the secret first; docs/deploying.md has the commands. Made by tests/containers/render_chart.py.
"""
OF_HELM = "app.kubernetes.io/managed-by: Helm"


def main() -> None:
    """Print the manifests of a release called vectorpool."""
    values = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    rendered = Chart.load(sys.argv[1]).render(values, name="vectorpool", namespace="vectorpool")
    print(HEAD, end="")
    for text in (rendered[path].strip() for path in sorted(rendered)):
        if text:
            print("---")
            print("\n".join(line for line in text.splitlines() if line.strip() != OF_HELM))


if __name__ == "__main__":
    main()
