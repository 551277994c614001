// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include "explore/scenarios.hpp"

/// Compiled only for the sanitizer of threads, to which each agent of the explorer is a thread: what one writes and
/// another reads must be ordered by the atomics in between, in every interleaving that is tried, whatever x86 would
/// have made of it. A race is reported, and fails the process at its end. The sanitizer models no fences: what rests on
/// one is the business of the explorer's store buffers.
namespace {
using namespace shadowmmu;

TEST_CASE("what an agent reads of another's writes, an order of the memory model lets it read") {
  static_assert(sim::kRacesShow);
  for (const test::Named& n : test::scenarios()) {
    SUBCASE(n.name.c_str()) {
      sim::ExploreOptions options;
      options.preemptions = 1;
      options.tso = false;
      options.random_runs = 50;
      options.max_steps = 200'000;
      const sim::Report r = sim::Explorer(options).run(n.make);
      INFO(n.name, ": ", r.text());
      CHECK(r.ok());
      CHECK(r.complete);
    }
  }
}
TEST_CASE("the sanitizer sees agents as threads: a flag that is published relaxed orders nothing") {
  // In a process of its own, so that the report is no failure of this one.
  using M = sim::ExploredMemory;
  const auto make = [](bool release) {
    struct Shared {
      int data = 0;
      std::uint64_t flag = 0;
    };
    auto s = std::make_shared<Shared>();
    return sim::Scenario{{[=] {
                            s->data = 1;
                            if (release)
                              M::store<memory::Order::Release>(s->flag, 1);
                            else
                              M::store<memory::Order::Relaxed>(s->flag, 1);
                          },
                          [=] {
                            if (M::load<memory::Order::Acquire>(s->flag) != 0) sim::require(s->data == 1);
                          }}};
  };
  for (const bool release : {true, false}) {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      std::freopen("/dev/null", "w", stderr);
      static_cast<void>(sim::Explorer().run([&] { return make(release); }));
      std::exit(0);  // the sanitizer makes it another where it saw a race
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK((WEXITSTATUS(status) == 0) == release);
  }
}
}  // namespace
