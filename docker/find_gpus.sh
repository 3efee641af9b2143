#!/usr/bin/env bash
# Spark asks this script which GPUs a worker has; the answer is one line of JSON.
set -euo pipefail
addresses=$(nvidia-smi --query-gpu=index --format=csv,noheader | sed 's/.*/"&"/' | paste -sd, -)
echo "{\"name\": \"gpu\", \"addresses\": [${addresses}]}"
