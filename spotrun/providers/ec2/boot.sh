#!/bin/bash
# spotrun: boots one attempt of a job. Whatever happens here, the machine ends.
set -u
readonly ETC=/etc/spotrun OPT=/opt/spotrun
readonly DEADLINE=@DEADLINE@ LONGEST=@LONGEST@

# Guard 1: the end of max_wait. A clock that is wrong makes it come early, or at the latest max_wait from now.
left=$((DEADLINE - $(date +%s)))
if ((left < 60)); then left=60; fi
if ((left > LONGEST)); then left=$LONGEST; fi
systemd-run --unit=spotrun-deadline --on-active="${left}s" --timer-property=AccuracySec=1s shutdown -h now ||
  (setsid sh -c 'sleep "$1"; shutdown -h now' guard "$left" </dev/null >/dev/null 2>&1 &)

umask 077
mkdir -p "$ETC" "$OPT"
echo '@ORDER@' | base64 -d >"$ETC/attempt.json"
echo '@BOOT@' | base64 -d >"$ETC/boot.py"

# Guard 2: a machine that boots again has lost its attempt, and the timer with it.
cat >"$ETC/spotrun-rebooted.service" <<UNIT
[Unit]
Description=Ends an instance of spotrun that was rebooted
[Service]
Type=oneshot
ExecStart=shutdown -h now
[Install]
WantedBy=multi-user.target
UNIT

# The end of the agent is the end of the machine.
cat >"$ETC/spotrun-agent.service" <<UNIT
[Unit]
Description=One attempt of a job of spotrun
After=network-online.target
[Service]
Environment=HOME=/root PYTHONUNBUFFERED=1 AWS_METADATA_SERVICE_NUM_ATTEMPTS=5 AWS_METADATA_SERVICE_TIMEOUT=2
ExecStart=$OPT/venv/bin/python -m spotrun.agent.machine $ETC/attempt.json $OPT/job
ExecStopPost=shutdown -h now
KillMode=mixed
TimeoutStopSec=110
StandardOutput=journal+console
StandardError=journal+console
UNIT

boot() {
  set -e
  systemctl enable "$ETC/spotrun-rebooted.service"
  python=
  # The Deep Learning AMI's own environments first: they have PyTorch and the drivers' libraries.
  for candidate in /opt/pytorch/bin/python3 /opt/conda/bin/python3 python3 python; do
    if command -v "$candidate" >/dev/null &&
      "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
      python=$(command -v "$candidate")
      break
    fi
  done
  if [ -z "$python" ]; then
    echo 'spotrun needs Python 3.10 or newer, and this image has none'
    return 1
  fi
  echo "spotrun boots with $python"
  # Without a pip of its own: the image's is newer, and an old setuptools beside it would hide the image's.
  "$python" -m venv --without-pip "$OPT/venv"
  "$python" "$ETC/boot.py" inherit "$OPT/venv"
  "$OPT/venv/bin/python" -c 'import pip' || "$OPT/venv/bin/python" -m ensurepip
  what=$("$python" "$ETC/boot.py" fetch "$ETC/attempt.json" "$OPT")
  pip() { "$OPT/venv/bin/python" -m pip --no-input --disable-pip-version-check "$@"; }
  # Twice: the first takes exactly this spotrun, the second only those of its dependencies that the image lacks.
  pip install --quiet --no-deps --force-reinstall "$what"
  pip install --quiet "$what"
  systemctl link "$ETC/spotrun-agent.service"
  systemctl start --no-block spotrun-agent.service
}

boot 2>&1 | tee "$ETC/boot.log"
status=${PIPESTATUS[0]}
if ((status != 0)); then
  echo "spotrun: the machine could not be made ready (exit code $status); it ends itself now"
  for python in /opt/pytorch/bin/python3 /opt/conda/bin/python3 python3 python; do
    command -v "$python" >/dev/null || continue
    timeout 60 "$python" "$ETC/boot.py" fail "$ETC/attempt.json" "$ETC/boot.log" && break
  done
  shutdown -h now
fi
exit "$status"
