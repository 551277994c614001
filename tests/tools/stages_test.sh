#!/usr/bin/env bash
# SPDX-License-Identifier: BSL-1.0
# Stages and the tables of ./dev, with stages that do nothing: what is counted, what comes after what, what the last line is.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/../.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "stages_test: $*"; exit 1; }

# The functions of `dev` without its last part, which carries out a command.
sed '/^command=/,$d' dev | sed "s|^cd .*|:|; s|^logs=.*|logs=$work/log|" >"$work/functions"
# shellcheck disable=SC1091
. "$work/functions"

stage_slow() { checked "slow one" sleep 1; echo slow >>"$work/order"; }
stage_quick() { checked "quick one" true; echo quick >>"$work/order"; }
stage_bad() { checked "bad one" false; }
stage_dies() { die "on purpose"; }
stage_after() { echo after >>"$work/order"; tally "three and one left out" 3 0 1; }
fresh_stages
out=$(run_stages slow quick bad dies after:slow,quick 2>&1; summary)
status=$?
((status != 0)) || fail "failures end well"
[[ $(tail -n 1 <<<"$out") == "5 passed, 2 failed, 1 skipped" ]] || fail "wrong verdict: $(tail -n 1 <<<"$out")"
[[ $(tail -n 1 "$work/order") == after ]] || fail "a stage did not wait: $(tr '\n' ' ' <"$work/order")"
grep -q '^bad one  *FAILED' <<<"$out" || fail "a failure is not shown"
grep -q '^dies  *0 *1 *0$' <<<"$out" || fail "a stage that died is not counted"
grep -Eq '^slow one +[1-9][0-9]* +[0-9]+$' <<<"$out" || fail "no time of a step"

fresh_stages
out=$(run_stages quick; summary) || fail "success ends badly"
[[ $(tail -n 1 <<<"$out") == "1 passed, 0 failed, 0 skipped" ]] || fail "wrong verdict: $(tail -n 1 <<<"$out")"
fresh_stages
out=$(summary) && fail "nothing ran, and that is success"
# The command itself, with one stage that fails: its last line, its status, and what a whole run leaves behind.
(
  cd "$work" && mkdir -p build || exit 1
  need_build() { :; }
  need_urcu() { :; }
  need_lint() { :; }
  need_guests() { :; }
  configure_all() { :; }
  nothing_lost() { :; }
  run_stages() { checked "$1" false; }
  cmd_test
) >"$work/out" 2>&1
status=$?
((status != 0)) || fail "a failed run ends well: $(cat "$work/out")"
[[ $(tail -n 1 "$work/out") == "1 passed, 1 failed, 0 skipped" ]] || fail "wrong last line: $(tail -n 1 "$work/out")"
[[ $(sed -n 2p "$work/build/last-test") == "1 passed, 1 failed, 0 skipped" ]] || fail "wrong build/last-test"
grep -q ' min$' "$work/build/last-test" || fail "no minutes in build/last-test"
echo "stages_test: ok"
