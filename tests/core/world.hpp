// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <doctest/doctest.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "shadowmmu/shadowmmu.hpp"
#include "shadowmmu/sim/guest_tables.hpp"
#include "support/any_policy.hpp"
#include "support/sound.hpp"
#include "support/test_host.hpp"

namespace shadowmmu::test {

inline constexpr Controls kLongMode{cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe};
inline constexpr std::uint64_t kPage = 0x67;  ///< P | W | U | A | D
using Kind = FaultOutcome::Kind;

/// A spin lock that tests look at and meddle with: `turn` lets another agent act once, the next time that the lock is
/// about to be taken. Under a Crowd somebody always waits, and gets a turn whenever the lock is taken.
struct TestLock : lock::Spin {
  static inline std::function<void()> turn;
  static inline std::uint64_t taken = 0;
  static inline bool crowded = false, held = false;
  [[nodiscard]] bool contended() const noexcept { return crowded; }
  void lock() noexcept {
    if (auto t = std::exchange(turn, nullptr)) {
      t();
      if (crowded) turn = std::move(t);
    }
    taken += 1;
    lock::Spin::lock();
    held = true;
  }
  void unlock() noexcept {
    held = false;
    lock::Spin::unlock();
  }
};
/// While it lives somebody always waits for every TestLock.
struct Crowd {
  Crowd() { TestLock::crowded = true; }
  Crowd(const Crowd&) = delete;
  ~Crowd() {
    TestLock::crowded = false;
    TestLock::turn = nullptr;
  }
};

/// Guest frames hold 4-level tables in [1, 256) and data in [256, 1024).
template <class Mmu, class Host = TestHost>
struct Bench {
  explicit Bench(typename Mmu::Caps caps = {}) : mmu(host, caps) {}
  Host host{1024, 4096};
  Mmu mmu;
  std::uint64_t next = 2;

  std::uint64_t* table(std::uint64_t gfn) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{gfn})); }
  void map(std::uint64_t root, std::uint64_t a, std::uint64_t gfn, std::uint64_t flags = kPage) {
    std::uint64_t t = root;
    for (unsigned l = 4; l >= 2; --l) {
      std::uint64_t& e = table(t)[Level{l}.index(a)];
      if (e == 0) e = next++ << 12 | kPage;
      t = e >> 12 & 0xffff'ffff;
    }
    table(t)[Level{1}.index(a)] = gfn << 12 | flags;
  }
  std::uint64_t leaf_table(std::uint64_t root, std::uint64_t a) {
    std::uint64_t t = root;
    for (unsigned l = 4; l >= 2; --l) t = table(t)[Level{l}.index(a)] >> 12 & 0xffff'ffff;
    return t;
  }
};

template <class Vcpu>
void run_long(Vcpu& v, std::uint64_t root) {
  REQUIRE(v.set_control(kLongMode) == ControlOutcome::Done);
  REQUIRE(v.set_cr3(root << 12) == ControlOutcome::Done);
  REQUIRE(v.enter() == EnterOutcome::Enter);
}
template <class Vcpu>
FaultOutcome write_fault(Vcpu& v, std::uint64_t a, bool present = false) {
  return v.handle_fault(Gva{a}, pferr::kWrite | pferr::kUser | (present ? pferr::kPresent : 0U), CpuMode{3, false});
}
template <class Vcpu>
FaultOutcome read_fault(Vcpu& v, std::uint64_t a) {
  return v.handle_fault(Gva{a}, pferr::kUser, CpuMode{3, false});
}

/// Effects: runs f under each policy: an AnyPolicy takes the name from the environment.
template <class F>
void each_policy(F&& f) {
  const char* own = std::getenv("SHADOWMMU_TEST_POLICY");
  const std::string before = own == nullptr ? "Fifo" : own;
  AnyPolicy::for_each([&](const char* name, auto) {
    INFO(std::string(name));
    ::setenv("SHADOWMMU_TEST_POLICY", name, 1);
    f();
  });
  ::setenv("SHADOWMMU_TEST_POLICY", before.c_str(), 1);
}

}  // namespace shadowmmu::test
