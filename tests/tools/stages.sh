# SPDX-License-Identifier: BSL-1.0
# shellcheck shell=bash
# Stages of ./dev test, two side by side: a stage that keeps one core busy (a guest in QEMU, the last long test of a
# suite, a link) leaves the other to its neighbour. `dev` reads this file.
#
# A stage is a function that calls `step`, `tally` and `checked`. It runs in a subshell of its own: what it says goes out
# line by line, what it counts lies in files until `summary` adds them up.

stage_dir=$logs/stages

# lanes   how many stages run at once; the jobs of each share the cores.
lanes() { (($(nproc) > 1)) && echo 2 || echo 1; }

# run_stages NAME[:AFTER[,AFTER]...] ...   calls stage_NAME for each, in order, as lanes get free and what it comes after
# has ended.
run_stages() {
  local todo=("$@") running=() name after item i free ready began=$SECONDS told=$SECONDS
  local -A pid_of=() ended=()
  while ((${#todo[@]} + ${#running[@]})); do
    free=$(($(lanes) - ${#running[@]}))
    for i in "${!todo[@]}"; do
      ((free > 0)) || break
      name=${todo[i]%%:*}
      ready=yes
      for item in $(after=${todo[i]#"$name"} && tr , ' ' <<<"${after#:}"); do
        [[ -n ${ended[$item]:-} ]] || ready=no
      done
      [[ $ready == yes ]] || continue
      (
        trap - EXIT
        current_stage=$name
        "stage_$name"
        rm -f "$stage_dir/$name.now"
        : >"$stage_dir/$name.ended"
      ) &
      pid_of[$name]=$!
      running+=("$name")
      unset "todo[i]"
      free=$((free - 1))
    done
    sleep 0.2  # there is no `wait -n -p` in bash 5.0
    for i in "${!running[@]}"; do
      name=${running[i]}
      kill -0 "${pid_of[$name]}" 2>/dev/null && continue
      wait "${pid_of[$name]}"
      # A stage that left by `die` has counted nothing.
      [[ -f $stage_dir/$name.ended ]] || tally "$name" 0 1 0
      ended[$name]=yes
      unset "running[i]"
      told=$SECONDS
    done
    if ((SECONDS - told >= 30 && ${#running[@]})); then
      told=$SECONDS
      printf '  %4d s: %s\n' $((SECONDS - began)) "$(progress "${running[@]}")"
    fi
  done
}

# Ends what still runs, where the whole run is told to end.
stop_stages() {
  local p
  for p in $(builtin jobs -p); do kill "$p" 2>/dev/null; done
}

# progress STAGE...   what each does now, and how far it is where its log says so: [12/90] of Ninja, 12/90 of CTest and of
# the planted bugs.
progress() {
  local stage now log far line=""
  for stage in "$@"; do
    [[ -f $stage_dir/$stage.now ]] || continue
    IFS='|' read -r now log <"$stage_dir/$stage.now"
    far=$(tail -c 4000 "$log" 2>/dev/null | grep -oE '^ *\[?[0-9]+/[0-9]+' | tail -n 1 | tr -d '[ ')
    line+="${line:+; }$now${far:+ $far}"
  done
  printf '%s' "$line"
}
