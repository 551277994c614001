// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <new>
#include <thread>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"
#include "urcu_grace.hpp"

/// What the Mmu relies on, of liburcu's grace periods. Threads go step by step; a delay only gives what is wrong time
/// to happen.
namespace {
using namespace shadowmmu;
using Domain = UrcuGrace::Domain<memory::Smp>;

/// Passed once; then it stays open. A step that is never made ends the test by ctest's time limit.
class Step {
 public:
  void made() noexcept { made_.store(true); }
  void await() const noexcept {
    while (!made_.load()) std::this_thread::yield();
  }
  [[nodiscard]] bool is_made() const noexcept { return made_.load(); }
  /// Effects: gives what must not happen a while to happen: what is right does not depend on how long.
  void expect_not(std::chrono::milliseconds patience = std::chrono::milliseconds(50)) const {
    const auto end = std::chrono::steady_clock::now() + patience;
    while (!made_.load() && std::chrono::steady_clock::now() < end) std::this_thread::yield();
    CHECK_FALSE(made_.load());
  }

 private:
  std::atomic<bool> made_{false};
};

/// A thread that reads: from its making until `leave` it is in a section.
class ReaderThread {
 public:
  explicit ReaderThread(Domain& d)
      : thread_([this, &d] {
          const UrcuGrace::Registered registered;
          Domain::Reader r;
          d.add(r);
          d.enter(r);
          d.enter(r);
          d.leave(r);  // not the outermost: the section goes on
          entered_.made();
          leave_.await();
          d.leave(r);
          d.remove(r);
        }) {
    entered_.await();
  }
  ~ReaderThread() { leave(); }
  void leave() {
    leave_.made();
    if (thread_.joinable()) thread_.join();
  }

 private:
  Step entered_, leave_;
  std::thread thread_;
};

/// Holds liburcu's helper thread in a callback of ours: what is queued behind it is queued until `go`.
class Plug {
 public:
  Plug() {
    hands.fetch_add(1);
    urcu_memb_call_rcu(&ticket_.head, hold);
  }
  Plug(const Plug&) = delete;
  Plug& operator=(const Plug&) = delete;
  ~Plug() {
    go();
    urcu_memb_barrier();
    hands.fetch_add(1);
  }
  void reached() const noexcept { ticket_.reached.await(); }
  void go() noexcept { ticket_.go.made(); }

 private:
  struct Ticket {
    rcu_head head{};
    Step reached, go;
  };
  static void hold(rcu_head* head) noexcept {
    hands.fetch_add(1);
    auto& t = *reinterpret_cast<Ticket*>(head);
    t.reached.made();
    t.go.await();
    hands.fetch_add(1);
  }
  /// Counted whenever a ticket changes hands: in what order it does, the sanitizer does not learn from liburcu.
  static inline std::atomic<unsigned> hands{0};
  Ticket ticket_;
};

/// Effects: gives a period that must not pass a while to pass, as Step::expect_not.
void expect_not_passed(const Domain& d, std::uint64_t period) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  bool passed = false;
  while (!passed && std::chrono::steady_clock::now() < end) passed = d.passed(period);
  CHECK_FALSE(passed);
}
void await_passed(const Domain& d, std::uint64_t period) {
  while (!d.passed(period)) std::this_thread::yield();
}

TEST_CASE("a period passes when the sections that were open at its beginning have ended, and not before") {
  const UrcuGrace::Registered registered;
  Domain d;
  ReaderThread before(d);
  const std::uint64_t first = d.begin();
  ReaderThread after(d);
  expect_not_passed(d, first);
  before.leave();
  // A section that began later may delay it (liburcu's callbacks share their periods), no longer than it lasts.
  after.leave();
  await_passed(d, first);
  CHECK(d.passed(first));
  const std::uint64_t second = d.begin();
  CHECK(second > first);
  CHECK(d.passed(first));
  await_passed(d, second);
}

TEST_CASE("a period that begins while the callback of a former one is queued does not pass with that one") {
  const UrcuGrace::Registered registered;
  Domain d;
  Plug one;
  one.reached();
  // The helper thread takes both at once, when it is done with the first plug: one grace period serves them.
  Plug two;
  const std::uint64_t first = d.begin();
  one.go();
  two.reached();
  // So the first period has passed, and its callback has not run. A writer that is in a hurry does not wait for it.
  d.wait();
  CHECK_FALSE(d.passed(first));
  ReaderThread reader(d);
  const std::uint64_t second = d.begin();
  CHECK(second > first);
  CHECK_FALSE(d.passed(second));
  two.go();
  await_passed(d, first);
  expect_not_passed(d, second);
  // In a hurry once more, now that the callback of the second is queued; and again.
  reader.leave();
  d.wait();
  const std::uint64_t third = d.begin();
  d.wait();
  await_passed(d, d.begin());
  CHECK(d.passed(third));
}

TEST_CASE("a domain that ends leaves no callback behind") {
  const UrcuGrace::Registered registered;
  alignas(Domain) unsigned char room[sizeof(Domain)];
  Domain* d = ::new (static_cast<void*>(room)) Domain;
  Plug plug;
  plug.reached();
  static_cast<void>(d->begin());
  Step gone;
  std::thread end([&] {
    const UrcuGrace::Registered inner;
    d->~Domain();
    std::memset(room, 0xDB, sizeof room);
    gone.made();
  });
  gone.expect_not();
  plug.go();
  end.join();
  urcu_memb_barrier();
  for (const unsigned char byte : room) CHECK(byte == 0xDB);
}

/// liburcu's grace periods, and whether somebody waits for one.
struct Watched {
  static inline Step* waiting = nullptr;
  template <class M>
  struct Domain : UrcuGrace::Domain<M> {
    void wait() noexcept {
      if (waiting != nullptr) waiting->made();
      UrcuGrace::Domain<M>::wait();
    }
  };
};

/// Counts and poisons what is freed.
class Vm : public host::Arena {
 public:
  static constexpr std::uint64_t kPages = 4096;
  Vm() : Arena(kPages, 2048) {}
  void free_frame(Hpa p) noexcept {
    std::memset(to_virt(p), 0xDB, kPageSize);
    freed.fetch_add(1);
    Arena::free_frame(p);
  }
  std::atomic<std::uint64_t> freed{0};
};
struct Few : config::Default {
  static constexpr unsigned kDeferredPages = 16;
};
using Mmu = ShadowMmu<arch::Ept, lock::Readers<lock::Spin, Watched>, reclaim::Default, Vm, Few>;

/// An Mmu with a vCPU that maps a page and loses it: some shadow pages fall due each time.
struct World {
  World() {
    CHECK(mmu.add_slot(Gfn{0}, Vm::kPages).ok());
    map();
  }
  void map() {
    CHECK(vcpu.enter() == EnterOutcome::Enter);
    CHECK(vcpu.handle_fault(Gva{0x1000}, pferr::kWrite).kind == FaultOutcome::Kind::Resume);
  }
  /// Returns: shadow pages that fell due.
  std::uint64_t lose() {
    const std::uint64_t before = mmu.stats().pages_deferred;
    mmu.zap_all_fast();
    map();  // the vCPU lets its old root go
    return mmu.stats().pages_deferred - before;
  }
  Vm vm;
  Mmu mmu{vm};
  Mmu::Vcpu vcpu{mmu};
};

TEST_CASE("a section keeps what it may have seen; afterwards it goes without anybody waiting") {
  const UrcuGrace::Registered registered;
  World w;
  Mmu::Reader record(w.mmu);
  w.vm.freed = 0;
  Step entered, leave, zapped;
  std::thread reader([&] {
    const UrcuGrace::Registered inner;
    const Mmu::Reader::Section section(record);
    CHECK(record.lookup(w.vcpu, Gva{0x1000}).present);
    entered.made();
    zapped.await();
    static_cast<void>(record.lookup(w.vcpu, Gva{0x1000}));
    leave.await();
  });
  entered.await();
  std::uint64_t due = w.lose();
  CHECK(due >= 3);
  zapped.made();
  while (2 * due < Few::kDeferredPages) due += w.lose();  // until a period is under way
  CHECK(w.mmu.stats().pages_deferred_now == due);
  CHECK(w.vm.freed == 0);
  leave.made();
  reader.join();
  urcu_memb_barrier();  // the period passes, and its callback runs
  CHECK(w.mmu.stats().pages_deferred_now == due);
  for (unsigned i = 0; i < Few::kDeferredPages && w.vm.freed == 0; ++i) w.lose();
  CHECK(w.vm.freed >= due);
  CHECK(w.mmu.stats().reader_waits == 0);
  CHECK(w.mmu.audit().violations == 0);
}

TEST_CASE("at the bound a writer waits for the section, and goes on when it ends") {
  const UrcuGrace::Registered registered;
  World w;
  Mmu::Reader record(w.mmu);
  w.vm.freed = 0;
  Step entered, waiting, leaving, through;
  std::thread reader([&] {
    const UrcuGrace::Registered inner;
    const Mmu::Reader::Section section(record);
    entered.made();
    waiting.await();
    through.expect_not();
    CHECK(w.vm.freed == 0);
    leaving.made();
  });
  entered.await();
  Watched::waiting = &waiting;
  std::thread writer([&] {
    const UrcuGrace::Registered inner;
    while (!waiting.is_made()) w.lose();
    CHECK(leaving.is_made());
    CHECK(w.vm.freed > Few::kDeferredPages);
    through.made();
  });
  writer.join();
  reader.join();
  Watched::waiting = nullptr;
  const Counters c = w.mmu.stats();
  CHECK(c.reader_waits == 1);
  CHECK(c.pages_deferred_highest <= Few::kDeferredPages);
  CHECK(w.mmu.audit().violations == 0);
}
}  // namespace
