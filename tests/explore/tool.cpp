// SPDX-License-Identifier: BSL-1.0
// The interleaving explorer by hand: lists, runs and replays the scenarios of scenarios.hpp.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <stdexcept>

#include "explore/named.hpp"

namespace {
using namespace shadowmmu;

constexpr const char* kUsage =
    "usage: explore list\n"
    "       explore run [NAME-PART] [--sc | --weak | --cxx] [--preemptions N] [--stale N]\n"
    "                               [--random N] [--seed N] [--seconds N]\n"
    "       explore replay NAME-PART SCHEDULE\n"
    "Runs every interleaving with up to N preemptions (2), with x86-TSO store buffers, or (--sc) without, or (--weak)\n"
    "with such as let stores overtake each other that are no release, or (--cxx) of the C++ memory model with up to N\n"
    "loads (1) that find something old; then N random\n"
    "ones without a bound (1000), from a seed. A failure names the schedule, which replay takes.\n";

int report(const char* name, const sim::Report& r) {
  std::printf("%-40s %s\n", name, r.text().c_str());
  std::fflush(stdout);
  return r.ok() ? 0 : 1;
}

int run(int argc, char** argv) {
  sim::ExploreOptions o;
  o.random_runs = 1000;
  o.max_steps = 1'000'000;
  o.max_runs = ~std::uint64_t{0};
  std::string part;
  const auto number = [&](int& i) {
    if (i + 1 == argc) throw std::invalid_argument(std::string(argv[i]) + " wants a number");
    return std::stoull(argv[++i]);
  };
  for (int i = 2; i < argc; ++i) {
    const std::string a = argv[i];
    if (a == "--sc")
      o.tso = false;
    else if (a == "--weak")
      o.weak = true;
    else if (a == "--cxx")
      o.cxx = true;
    else if (a == "--stale")
      o.stale = static_cast<unsigned>(number(i));
    else if (a == "--preemptions")
      o.preemptions = static_cast<unsigned>(number(i));
    else if (a == "--random")
      o.random_runs = number(i);
    else if (a == "--seed")
      o.seed = number(i);
    else if (a == "--seconds")
      o.time = std::chrono::seconds(number(i));
    else if (a.starts_with("--"))
      throw std::invalid_argument("unknown option " + a);
    else
      part = a;
  }
  int failed = 0;
  int ran = 0;
  for (const test::Named& n : test::scenarios()) {
    if (n.name.find(part) == std::string::npos) continue;
    ran += 1;
    sim::Explorer e(o);
    failed += report(n.name.c_str(), e.run(n.make));
  }
  if (ran == 0) throw std::invalid_argument("no scenario is called like that; see: explore list");
  return failed == 0 ? 0 : 1;
}
int replay(const std::string& part, const char* schedule) {
  for (const test::Named& n : test::scenarios()) {
    if (n.name.find(part) == std::string::npos) continue;
    sim::ExploreOptions o;
    o.max_steps = 1'000'000;
    return report(n.name.c_str(), sim::Explorer(o).replay(n.make, schedule));
  }
  throw std::invalid_argument("no scenario is called like that; see: explore list");
}
}  // namespace

int main(int argc, char** argv) {
  // The scenarios use doctest's REQUIRE while they set up, outside of any test case.
  doctest::Context context;
  context.setAsDefaultForAssertsOutOfTestCases();
  context.setAssertHandler([](const doctest::AssertData& a) {
    if (!a.m_failed) return;
    std::fprintf(stderr, "%s:%d: %s does not hold\n", a.m_file, a.m_line, a.m_expr);
    std::exit(1);
  });
  try {
    if (argc == 2 && std::strcmp(argv[1], "list") == 0) {
      for (const test::Named& n : test::scenarios()) std::printf("%s\n", n.name.c_str());
      return 0;
    }
    if (argc >= 2 && std::strcmp(argv[1], "run") == 0) return run(argc, argv);
    if (argc == 4 && std::strcmp(argv[1], "replay") == 0) return replay(argv[2], argv[3]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "explore: %s\n", e.what());
    return 2;
  }
  std::fputs(kUsage, stderr);
  return 2;
}
