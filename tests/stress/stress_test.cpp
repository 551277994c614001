// SPDX-License-Identifier: BSL-1.0
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"
#include "shadowmmu/sim/random.hpp"

/// Real threads under lock::Spin: vCPUs fault while the host unmaps, zaps, shrinks, and slots come and go.
namespace {
using namespace shadowmmu;
using Kind = FaultOutcome::Kind;

std::chrono::milliseconds duration() {
  return std::getenv("SHADOWMMU_LONG") != nullptr ? std::chrono::minutes(2) : std::chrono::milliseconds(1500);
}

/// So that two vCPUs reach the limit.
struct Small : config::Default {
  static constexpr unsigned kInstructionAddresses = 2;
};

template <class Arch, class Lock, class Setup>
void storm(Setup&& setup) {
  using Mmu = ShadowMmu<Arch, Lock, reclaim::Fifo, host::Arena, Small>;
  host::Arena host(2048, 8192);
  {
    Mmu mmu(host);
    const SlotId slot = mmu.add_slot(Gfn{0}, 1024).value();
    std::atomic<bool> stop{false};
    std::atomic<std::uint64_t> faults{0};
    std::atomic<int> wrong{0};
    std::vector<std::unique_ptr<typename Mmu::Vcpu>> vcpus;
    for (std::uint32_t i = 0; i < 2; ++i) vcpus.push_back(std::make_unique<typename Mmu::Vcpu>(mmu, VcpuId{i}));
    mmu.set_limit(40);
    std::vector<std::thread> threads;
    for (std::uint32_t i = 0; i < 2; ++i) {
      threads.emplace_back([&, i] {
        auto& v = *vcpus[i];
        setup(host, v, i);
        sim::Random rng(i + 1);
        while (!stop) {
          if (v.enter() != EnterOutcome::Enter) ++wrong;
          const std::uint64_t a = 0x40'0000 + (rng.below(200) << 12);
          switch (v.handle_fault(Gva{a}, rng.flip() ? pferr::kWrite : 0).kind) {
            case Kind::Resume:
            case Kind::Retry:
            case Kind::Mmio:
            case Kind::InjectPageFault:
              break;
            default:
              ++wrong;
          }
          if (rng.chance(1, 16)) v.invlpg(Gva{a});
          if (rng.chance(1, 32)) v.flush();
          static_cast<void>(v.lookup(Gva{a}));
          faults.fetch_add(1, std::memory_order_relaxed);
        }
      });
    }
    threads.emplace_back([&] {
      sim::Random rng(77);
      while (!stop) {
        mmu.unmap(Gfn{rng.below(1024)}, 1 + rng.below(64));
        const std::uint64_t written[] = {rng.below(1024) << 12, rng.below(1024) << 12};
        mmu.drain_dirty_buffer(written, 2);  // beside a log that stops
        mmu.guest_wrote(Gpa{rng.below(1024) << 12}, 8);
        if (rng.chance(1, 20)) mmu.zap_all_fast();
        if (rng.chance(1, 10)) static_cast<void>(mmu.shrink(4));
        if (rng.chance(1, 30)) {
          const auto r = mmu.add_slot(Gfn{1024}, 512);
          if (r.ok() && rng.flip() && !mmu.move_slot(r.value(), Gfn{2048}).ok()) ++wrong;
          if (r.ok() && !mmu.remove_slot(r.value()).ok()) ++wrong;
        }
      }
    });
    threads.emplace_back([&] {
      sim::Random rng(78);
      std::uint64_t words[16];
      while (!stop) {
        mmu.invalidate_mmio();
        mmu.clear_young(Gfn{rng.below(1024)}, 64);
        if (rng.chance(1, 10)) {
          mmu.obsolete_all();
          mmu.reclaim_obsolete(3);
        }
        if (rng.chance(1, 10) && !mmu.zap_slot(slot).ok()) ++wrong;
        if (rng.chance(1, 20)) {
          if (!mmu.start_dirty_log(slot, rng.flip() ? DirtyMethod::DirtyBit : DirtyMethod::WriteProtect).ok()) ++wrong;
          if (!mmu.fetch_dirty_log(slot, 0, 16, words).ok()) ++wrong;
          if (!mmu.stop_dirty_log(slot).ok()) ++wrong;
        }
      }
    });
    // One thread that is no vCPU looks at tables, logs and ages of both.
    threads.emplace_back([&] {
      sim::Random rng(79);
      typename Mmu::Reader reader(mmu);
      std::uint64_t words[4];
      while (!stop) {
        const auto& v = *vcpus[rng.below(2)];
        const Gva a{0x40'0000 + (rng.below(200) << 12)};
        const EntryInfo e = reader.lookup(v, a);
        if (e.present && address_of(e.pfn).value() - host::Arena::kGuestBase >= 2048 * kPageSize) ++wrong;
        static_cast<void>(reader.translate(v, a, AccessRequest{rng.flip(), false, true}));
        if (rng.chance(1, 4)) static_cast<void>(reader.test_young(Gfn{rng.below(1024)}, 100));
        if (rng.chance(1, 8)) static_cast<void>(reader.fetch_dirty_log(slot, rng.below(12), 4, words));
        if constexpr (Mmu::kLockless) {
          const typename Mmu::Reader::Section section(reader);
          static_cast<void>(reader.lookup(v, a));
          const typename Mmu::Reader::Section inner(reader);
          static_cast<void>(reader.lookup(v, Gva{a.value() + 4096}));
        }
      }
    });
    std::this_thread::sleep_for(duration());
    // A busy machine may have let the vCPUs run hardly at all.
    for (int waited = 0; faults <= 100 && waited < 600; ++waited)
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    stop = true;
    for (auto& t : threads) t.join();
    CHECK(wrong == 0);
    CHECK(faults > 100);
    const AuditReport r = mmu.audit();
    INFO(std::string(r.first == nullptr ? "" : r.first));
    CHECK(r.violations == 0);
    vcpus.clear();
  }
  CHECK(host.frames_used() == 0);
}

void tables(host::Arena& host, auto& v, std::uint32_t i) {
  // Each its own tables in frames of its own; the data frames are shared.
  const std::uint64_t root = 900 + i * 20;
  const auto table = [&](std::uint64_t g) { return static_cast<std::uint64_t*>(host.guest_page(Gfn{g})); };
  table(root)[0] = (root + 1) << 12 | 7;
  table(root + 1)[0] = (root + 2) << 12 | 7;
  table(root + 2)[2] = (root + 3) << 12 | 7;
  for (unsigned n = 0; n < 200; ++n) table(root + 3)[n] = (100 + n) << 12 | 7;
  static_cast<void>(v.set_control({cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma | efer::kNxe}));
  static_cast<void>(v.set_cr3(root << 12));
}
const auto kNoTables = [](host::Arena&, auto&, std::uint32_t) {};
const auto kTables = [](host::Arena& host, auto& v, std::uint32_t i) { tables(host, v, i); };

TEST_CASE("two vCPUs on one direct map beside a host that takes everything back") {
  storm<arch::Ept, lock::Spin>(kNoTables);
}
TEST_CASE("two vCPUs under shadow paging beside a host that takes everything back") {
  storm<arch::X86_64, lock::Spin>(kTables);
}
TEST_CASE("the same with readers and faults without the lock: direct map") {
  storm<arch::Ept, lock::Readers<lock::Spin>>(kNoTables);
}
TEST_CASE("the same with readers without the lock: shadow paging") {
  storm<arch::X86_64, lock::Readers<lock::Spin>>(kTables);
}
}  // namespace
