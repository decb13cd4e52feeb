#!/bin/sh
# What takes the rollout back when the canary fails; nothing runs it unless it is asked for:
#   somactl canary-check --spec canary.yaml --on-fail 'sh roll-back.sh writers-tenant-2'
# The writers of the candidate's namespace go back into dark mode, where no invariant refuses (docs/ROLLOUT.md). The verdict
# comes as JSON on stdin, and stays beside the log of the rollout.
set -eu
deployment=$1
cat > "canary-verdict-$deployment.json"
kubectl set env "deployment/$deployment" SFM_DARK_MODE=1
kubectl annotate --overwrite "deployment/$deployment" somactl.example/canary=FAIL
kubectl rollout status "deployment/$deployment" --timeout=5m
