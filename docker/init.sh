#!/usr/bin/env bash
# Airflow's tables, the pools of the DAGs, and the password of the administrator; may be run again at any time.
set -euo pipefail
airflow db migrate
airflow pools import /opt/lurm/docker/pools.json
umask 077
python - <<'PYTHON'
import json, os, pathlib

pathlib.Path(os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).write_text(json.dumps({"admin": os.environ["AIRFLOW_ADMIN_PASSWORD"]}))
PYTHON
