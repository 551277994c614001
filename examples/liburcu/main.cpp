// SPDX-License-Identifier: BSL-1.0
// An embedder that has RCU of its own, liburcu, gives it to the Mmu: a vCPU writes all over its memory, a second thread
// looks at the shadow tables and collects the dirty log without the lock, a third takes everything away again and
// again. Exits with 0 if nobody ever saw what was not there, and the log has every page that was written.
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/shadowmmu.hpp"
#include "urcu_grace.hpp"

using namespace shadowmmu;

/// Frames that are freed hold garbage at once: entries that are present and name no frame of the guest.
class Vm : public host::Arena {
 public:
  static constexpr std::uint64_t kPages = 4096;
  Vm() : Arena(kPages, 2048) {}
  void free_frame(Hpa p) noexcept {
    auto* words = static_cast<std::uint64_t*>(to_virt(p));
    for (unsigned i = 0; i < kPageSize / sizeof *words; ++i) memory::Smp::plain(words[i], ~std::uint64_t{0} >> 12);
    Arena::free_frame(p);
  }
};

using Mmu = ShadowMmu<arch::Ept, lock::Readers<lock::Spin, UrcuGrace>, reclaim::Default, Vm>;
using Kind = FaultOutcome::Kind;

namespace {
int failures = 0;
void expect(bool ok, const char* what) {
  std::printf("%-64s %s\n", what, ok ? "yes" : "NO");
  failures += ok ? 0 : 1;
}
Gva address(std::uint64_t gfn) { return Gva{gfn << kPageShift}; }

/// What the threads tell each other.
struct Story {
  static constexpr std::uint64_t kEnough = 2000;
  std::atomic<std::uint64_t> faults{0}, seen{0}, zaps{0};
  std::atomic<bool> wrong{false};
  [[nodiscard]] bool over() const { return wrong || (faults > 10 * kEnough && seen > kEnough && zaps > kEnough / 10); }
};

void run_vcpu(Mmu::Vcpu& vcpu, Story& story, std::vector<bool>& written) {
  const UrcuGrace::Registered registered;
  for (std::uint64_t n = 0; !story.over(); ++n) {
    const std::uint64_t gfn = n * 769 % Vm::kPages;  // here and there, in every 2 MiB
    const bool write = n % 3 == 0;
    if (vcpu.enter() != EnterOutcome::Enter) story.wrong = true;
    const Kind kind = vcpu.handle_fault(address(gfn), write ? pferr::kWrite : 0).kind;
    if (kind == Kind::Resume) written[gfn] = written[gfn] || write;
    if (kind != Kind::Resume && kind != Kind::Retry) story.wrong = true;
    vcpu.exit();
    ++story.faults;
    if (n % 16 == 0) std::this_thread::yield();  // with fewer CPUs than threads, spinning gets nobody anywhere
  }
}

void collect(Mmu::Reader& reader, SlotId slot, Story& story, std::vector<std::uint64_t>& dirty) {
  std::vector<std::uint64_t> now(dirty.size());
  if (!reader.fetch_dirty_log(slot, 0, now.size(), now.data()).ok()) story.wrong = true;
  for (std::size_t i = 0; i < now.size(); ++i) dirty[i] |= now[i];
}

void run_reader(Mmu& mmu, Mmu::Vcpu& vcpu, SlotId slot, Story& story, std::vector<std::uint64_t>& dirty) {
  const UrcuGrace::Registered registered;
  Mmu::Reader reader(mmu);
  for (std::uint64_t n = 0; !story.over(); ++n) {
    const std::uint64_t gfn = n * 1277 % Vm::kPages;
    const EntryInfo e = reader.lookup(vcpu, address(gfn));
    if (e.present) ++story.seen;
    if (e.present && e.pfn.value() != (Vm::kGuestBase >> kPageShift) + gfn) story.wrong = true;
    if (n % 64 == 0) collect(reader, slot, story, dirty);
    if (n % 16 == 0) std::this_thread::yield();
  }
}

void run_zapper(Mmu& mmu, Story& story) {
  const UrcuGrace::Registered registered;
  for (std::uint64_t next = 0; !story.over(); ++story.zaps) {
    mmu.zap_all_fast();
    mmu.unmap(Gfn{story.zaps * 512 % Vm::kPages}, 512);
    next = story.faults + 64;  // that there is something to see, and to take away
    while (story.faults < next && !story.over()) std::this_thread::yield();
  }
}
}  // namespace

int main() {
  const UrcuGrace::Registered registered;
  Vm vm;
  {
    Mmu mmu(vm);
    const Result<SlotId> slot = mmu.add_slot(Gfn{0}, Vm::kPages);
    expect(slot.ok() && mmu.start_dirty_log(slot.value()).ok(), "a slot, its writes are logged");
    if (!slot.ok()) return 1;
    std::vector<bool> written(Vm::kPages);
    std::vector<std::uint64_t> dirty(Mmu::dirty_log_words(Vm::kPages));
    Story story;
    {
      Mmu::Vcpu vcpu(mmu);
      std::thread guest([&] { run_vcpu(vcpu, story, written); });
      std::thread reader([&] { run_reader(mmu, vcpu, slot.value(), story, dirty); });
      std::thread zapper([&] { run_zapper(mmu, story); });
      guest.join();
      reader.join();
      zapper.join();
    }
    Mmu::Reader reader(mmu);
    collect(reader, slot.value(), story, dirty);
    bool exact = true;
    for (std::uint64_t g = 0; g < Vm::kPages; ++g) exact = exact && written[g] == ((dirty[g / 64] >> g % 64 & 1) != 0);
    const Counters c = mmu.stats();
    const auto number = [](std::uint64_t n) { return static_cast<unsigned long long>(n); };
    std::printf("%llu faults, %llu entries seen, %llu times all taken away\n", number(story.faults), number(story.seen),
                number(story.zaps));
    std::printf("%llu pages waited for readers, at most %llu at a time; writers waited %llu times\n",
                number(c.pages_deferred), number(c.pages_deferred_highest), number(c.reader_waits));
    expect(!story.wrong, "every entry that was seen names the guest's frame");
    expect(exact, "the dirty log names what was written, and nothing else");
    expect(c.pages_deferred != 0 && c.pages_deferred_highest <= config::Default::kDeferredPages,
           "pages waited for readers, within the bound");
    expect(mmu.audit().violations == 0, "every invariant holds");
  }
  expect(vm.frames_used() == 0, "every frame has come back");
  return failures == 0 ? 0 : 1;
}
