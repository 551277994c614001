// SPDX-License-Identifier: BSL-1.0
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "core/world.hpp"

/// What an embedder can do wrong with the interface. A debug build, which this is, says so in one sentence to the
/// assert handler; tests/release has what a release build does.
namespace {
using namespace shadowmmu;
using namespace shadowmmu::test;
using Mmu = ShadowMmu<arch::X86_64, lock::Spin, test::AnyPolicy, TestHost>;

/// Returns: what f writes to standard error before the assert handler ends it; empty where nothing ends it.
template <class F>
std::string last_words(F&& f) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::dup2(ends[1], 2);
    ::signal(SIGABRT, SIG_DFL);
    f();
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string said;
  char piece[256];
  for (ssize_t n = 0; (n = ::read(ends[0], piece, sizeof piece)) > 0;) said.append(piece, static_cast<std::size_t>(n));
  ::close(ends[0]);
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT ? said : std::string();
}
bool says(const std::string& all, const char* what) { return all.find(what) != std::string::npos; }

TEST_CASE("the value of an error and the error of a value are named") {
  Result<SlotId> bad = Error::Overlap;
  Result<SlotId> good = SlotId{3};
  CHECK(says(last_words([&] { static_cast<void>(bad.value()); }), "value() of a Result that holds an error"));
  CHECK(says(last_words([&] { static_cast<void>(good.error()); }), "error() of a Result that holds a value"));
  CHECK(good.value() == SlotId{3});
  CHECK(bad.error() == Error::Overlap);
}
TEST_CASE("an invalidate_end too many is named; as many as begins are not") {
  Bench<Mmu> b;
  b.mmu.invalidate_begin(Gfn{0}, 1);
  b.mmu.invalidate_begin(Gfn{4}, 1);
  b.mmu.invalidate_end();
  b.mmu.invalidate_end();
  CHECK(says(last_words([&] { b.mmu.invalidate_end(); }), "invalidate_end without invalidate_begin"));
}
TEST_CASE("two vCPUs of one id are named; one after the other is none") {
  Bench<Mmu> b;
  { const Mmu::Vcpu first(b.mmu, VcpuId{7}); }
  const Mmu::Vcpu second(b.mmu, VcpuId{7});
  CHECK(says(last_words([&] { const Mmu::Vcpu third(b.mmu, VcpuId{7}); }), "two vCPUs of one Mmu have the same id"));
}
TEST_CASE("an Mmu that ends before its vCPU, or its Reader, is named") {
  TestHost host(64, 512);
  CHECK(says(last_words([&] {
               std::optional<Mmu> mmu(std::in_place, host);
               const Mmu::Vcpu v(*mmu);
               mmu.reset();
             }),
             "an Mmu ends before its vCPU"));
  CHECK(says(last_words([&] {
               std::optional<Mmu> mmu(std::in_place, host);
               const Mmu::Reader r(*mmu);
               mmu.reset();
             }),
             "an Mmu ends before its Reader"));
}
TEST_CASE("no slot has the id that a failed Result holds") {
  Bench<Mmu> b;
  for (std::uint64_t i = 0; i < 8; ++i) CHECK(b.mmu.add_slot(Gfn{i * 8}, 8).value() != SlotId{});
  CHECK(b.mmu.remove_slot(SlotId{}).error() == Error::NoSuchSlot);
}
}  // namespace
