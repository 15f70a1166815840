#!/bin/sh
# What one machine goes through, inside it, as the user who would type the commands; started by `run`, never by hand.
#   inside.sh up       ./dev up until its first reading, Ctrl-C, and nothing is left
#   inside.sh killed   ./dev up, kill -9, ./dev up at once, Ctrl-C; without a network
#   inside.sh test [arguments]
# Facts for the table go to standard output as NAME=VALUE, everything else to standard error.
set -eu
LOG="${TMPDIR:-/tmp}/up-of-$(id -un).log"
FIRST_READING_SECONDS=300 # with the installation; a mirror may be slow
MOSQUITTO_VERSION='
import subprocess
from embedded.mosquitto_program import mosquitto_program
program = mosquitto_program(None)
shown = subprocess.run([program.path, "-h"], env=dict(program.environment), capture_output=True, text=True)
print(shown.stdout.split()[2])
'

fail() {
    echo "inside.sh: $*" >&2
    [ ! -f "$LOG" ] || tail -n 40 "$LOG" .wattline/logs/*.log >&2
    exit 1
}

# start_up: `./dev up` in the background; its id in $up, and the seconds to the first reading in $seconds.
start_up() {
    began="$(date +%s)"
    : > "$LOG"
    ./dev up > "$LOG" 2>&1 &
    up=$!
    until grep -q "first reading committed" "$LOG"; do
        kill -0 "$up" 2>/dev/null || fail "./dev up has ended"
        seconds=$(($(date +%s) - began))
        [ "$seconds" -lt "$FIRST_READING_SECONDS" ] || fail "no reading within $FIRST_READING_SECONDS s"
        sleep 0.2
    done
    seconds=$(($(date +%s) - began))
}

stop_up() {
    kill -INT "$up"
    status=0
    wait "$up" || status=$?
    [ "$status" = 0 ] || fail "./dev up ended with status $status after Ctrl-C"
    [ ! -e .wattline/run.json ] || fail "run.json is left"
    left="$(living)"
    [ -z "$left" ] || fail "left running: $left"
}

# What runs of ours; there may be no `ps`. A dead process that nobody collects is no longer one.
living() {
    for stat in /proc/[0-9]*/stat; do
        line="$(cat "$stat" 2>/dev/null)" || continue
        name="${line#*(}"
        name="${name%)*}"
        state="${line##*) }"
        case "$name:$state" in
            *:Z*) ;;
            postgres:* | mosquitto:* | python*:*) echo "$name" ;;
        esac
    done
}

runs_as_root() {
    for status in /proc/[0-9]*/status; do
        pid="${status#/proc/}"
        pid="${pid%/status}"
        [ "$pid" != "$up" ] || continue
        if grep -q "^Name:.*\(postgres\|mosquitto\|python\)" "$status" 2>/dev/null \
            && grep -q "^Uid:.0" "$status" 2>/dev/null && ! grep -q "^State:.Z" "$status"; then
            echo "$pid"
        fi
    done
}

case "$1" in
    up)
        start_up
        echo "UP_SECONDS=$seconds"
        [ "${MAY_RUN_AS_ROOT:-}" = yes ] || [ -z "$(runs_as_root)" ] || fail "runs as root: $(runs_as_root)"
        stop_up
        echo "PYTHON=$(.venv/bin/python -I -c 'import platform; print(platform.python_version())')"
        echo "MOSQUITTO=$(env -u PYTHONHOME -u PYTHONPATH .venv/bin/python -c "$MOSQUITTO_VERSION")"
        ;;
    killed)
        start_up
        kill -9 "$up"
        wait "$up" || true
        start_up
        echo "AGAIN_SECONDS=$seconds"
        stop_up
        ;;
    test)
        shift
        began="$(date +%s)"
        status=0
        ./dev test "$@" > "$LOG.tests" 2>&1 || status=$?
        echo "TEST_SECONDS=$(($(date +%s) - began))"
        echo "TESTS=$(tail -n 1 "$LOG.tests" | sed 's/^=* *//; s/ in [0-9.]*s.*//')"
        [ "$status" = 0 ] || { grep -v "^  File .*site-packages" "$LOG.tests" | tail -n 400 >&2; exit 1; }
        ;;
esac
