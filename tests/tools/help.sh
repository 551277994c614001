# SPDX-License-Identifier: BSL-1.0
# shellcheck shell=bash
# What `./dev COMMAND --help` says. `dev` reads this file.

help_of() {
  case $1 in
    test) cat <<'END' ;;
usage: ./dev test [--long | --quick | --list | --since REV]
  everything that must hold: gcc, clang, sanitizers, gates, planted bugs, guests under QEMU; two stages side by side.
  The last line is "N passed, N failed, N skipped"; build/last-test keeps commit, verdict and minutes of the last whole run.
  --long       more seeds, longer stress, clang's sanitizers too
  --quick      gcc only
  --list       prints each test case under each compiler and sanitizer, planted bugs, seeds and bounds; runs nothing
  --since REV  what the change since commit REV can touch: suites that depend on a changed file (gcc), the planted bugs
               of changed headers and tests, guests where the example changed, lint. Uncommitted changes count.
END
    demo) cat <<'END' ;;
usage: ./dev demo [--torture] [--migration]
  builds the bare-metal hypervisor and boots Linux under it in QEMU
  --torture    three times, with less and less room, while slots go and come, pages move, writes are logged, all is zapped
  --migration  while a second thread of the host's reads and checks, interrupting at any point
END
    run) cat <<'END' ;;
usage: ./dev run GUEST [--args "..."] [--initrd FILE] [--limit N] [--memory MiB] [--timeout S] [--option NAME=VALUE]...
               [--hv FILE] [--plain]
  boots a guest of yours under the example hypervisor in QEMU: a Linux bzImage or an ELF32 multiboot kernel.
  --limit N    at most N shadow pages;  --plain: without the hypervisor, to compare
  Exit status: see the head of examples/bare_metal_svm/run.
END
    guests) cat <<'END' ;;
usage: ./dev guests
  only the guests that `./dev test` boots in QEMU, two at a time
END
    bench) cat <<'END' ;;
usage: ./dev bench [ARGS]
  micro-benchmarks (about seven minutes); ARGS go to Google Benchmark: --benchmark_filter=REGEX picks some
END
    reclaim) cat <<'END' ;;
usage: ./dev reclaim [--trace FILE]... [--policy NAME,...] [--limit N,...] [--arch NAME] [--plan PLAN] [--tlb N]
                     [--out FOLDER] [--convert ...]
  replays traces under every reclaim policy and draws what it finds (several minutes); see docs/RECLAIM.md.
  All arguments: build/release/bench/reclaim/reclaim_study --help, once it is built.
END
    lint) cat <<'END' ;;
usage: ./dev lint [--fix]
  house rules, clang-format (--fix: formats in place), clang-tidy
END
    fuzz) cat <<'END' ;;
usage: ./dev fuzz [SECONDS]
  coverage-guided fuzzing with clang, 60 seconds a target unless SECONDS says otherwise
END
    explore) cat <<'END' ;;
usage: ./dev explore list
       ./dev explore run [NAME-PART] [--sc | --weak | --cxx] [--preemptions N] [--stale N] [--random N] [--seed N]
                         [--seconds N]
       ./dev explore replay NAME-PART SCHEDULE
  interleavings of small scenarios by hand; see docs/TESTING.md
END
    planted) cat <<'END' ;;
usage: ./dev planted [WORDS] [--list] [--alone] [--jobs N] [--compiler NAME] [--keep]
  plants known bugs; every one must be caught. WORDS: only bugs whose name contains one of them.
  Many bugs share a binary and are chosen when it runs; --alone compiles each by itself. See tests/planted/README.md.
END
    museum) cat <<'END' ;;
usage: ./dev museum [WORDS]
       ./dev museum --record
       ./dev museum --guests [--names PLANT,...]
  public bugs of other hypervisors' MMUs, planted here one by one: what each broke, which test catches it, what that
  test says. WORDS: only exhibits whose id, system or plant contains one of them; up to three of them show the lines
  that plant them.
  --record     writes down what the tests say, and docs/MUSEUM.md
  --guests     runs the paging guest on the example hypervisor with each of the bugs (half an hour or more); writes
               that down
END
    mutate) cat <<'END' ;;
usage: ./dev mutate [N] [--file F] [--seed S] [--jobs N] [--list] [--again]
  makes N mutants of the library (100) and runs the quick suites against each; prints the survivors with their diff.
  --file F     only headers whose path below include/shadowmmu contains F
  --seed S     which mutants (1); the same seed draws the same ones
  --list       how many places each operator finds; compiles nothing
  --again      starts anew; without it a run that was stopped goes on. See tests/planted/README.md.
END
    *) cmd_help ;;
  esac
}

cmd_help() {
  cat <<'END'
usage: ./dev COMMAND           ./dev COMMAND --help says more, at once
  test [--long|--quick|--list|--since REV]
                         everything that must hold: compilers, sanitizers, gates, planted bugs, guests under QEMU;
                         --since: what the change since a commit can touch
  demo [--torture] [--migration]
                         builds the bare-metal hypervisor and boots Linux under it in QEMU; --torture: three times, while
                         slots go and come, pages move, writes are logged, all is zapped, some 300 times a second;
                         --migration: while a second thread of the host's reads and checks, interrupting at any point
  run GUEST ...          boots a guest of yours: ./dev run bzImage [--args "..."] [--initrd FILE] [--limit N]
                         [--memory MiB] [--timeout S]
  guests                 only the guests that `test` boots
  bench [ARGS]           micro-benchmarks; ARGS go to Google Benchmark
  reclaim [ARGS]         replays traces under every reclaim policy, draws what it finds
  lint [--fix]           house rules, clang-format (--fix: formats in place), clang-tidy
  fuzz [SECONDS]         coverage-guided fuzzing with clang
  explore [ARGS]         interleavings of small scenarios: list, run, replay; see docs/TESTING.md
  planted [WORDS]        plants known bugs; every one must be caught
  museum [WORDS]         plants the public bugs of other shadow MMUs and shows what catches them; see docs/MUSEUM.md
  mutate [N]             makes N mutants by itself and shows those that no quick suite notices
  help                   this text
Logs go to build/log. What is missing is installed with apt-get on Debian and Ubuntu.
END
}
