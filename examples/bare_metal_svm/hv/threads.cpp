// SPDX-License-Identifier: BSL-1.0
#include "threads.hpp"

#include <cstddef>

#include "host_exceptions.hpp"
#include "ports.hpp"
#include "random.hpp"

extern "C" void nmi_entry();
extern "C" char after_vmexit[];

namespace hv {

// What an interrupt handler leaves on the interrupted stack, from its lowest address.
struct Context {
  std::uint64_t gpr[15];
  std::uint64_t rip, cs, rflags, rsp, ss;
};

namespace {

// IA-PC HPET specification 1.0a, 2.3. Registers are used by their low halves.
namespace hpet {
constexpr std::uint64_t kPeriod = 0x004, kConfiguration = 0x010, kCounter = 0x0F0;
constexpr std::uint64_t kTimer = 0x100, kTimerStep = 0x20, kComparator = 0x08, kMessage = 0x10, kMessageAddress = 0x14;
constexpr std::uint32_t kEnable = 1, kCountersMask = 31, kTimerEnable = 1U << 2, kTimer32 = 1U << 8,
                        kTimerMessage = 1U << 14, kTimerCanMessage = 1U << 15;
constexpr std::uint64_t kFemtosecondsASecond = 1'000'000'000'000'000;
}  // namespace hpet
// A message to the local APIC of CPU 0, delivery mode NMI.
constexpr std::uint32_t kMessageAddress = 0xFEE00000, kMessageNmi = 4U << 8;
constexpr unsigned kNmi = 2;

class Alarm {
 public:
  bool find(std::uint64_t base) noexcept {
    base_ = base;
    if (base == 0) return false;
    const std::uint32_t timers = (read(0) >> 8 & hpet::kCountersMask) + 1;
    for (std::uint32_t i = timers; i-- != 0;) {
      timer_ = hpet::kTimer + i * hpet::kTimerStep;
      if ((read(timer_) & hpet::kTimerCanMessage) != 0) return true;
    }
    return false;
  }
  [[nodiscard]] std::uint64_t ticks_a_second() const noexcept {
    return hpet::kFemtosecondsASecond / read(hpet::kPeriod);
  }
  void start() const noexcept {
    write(timer_ + hpet::kMessage, kMessageNmi);
    write(timer_ + hpet::kMessageAddress, kMessageAddress);
    write(timer_, hpet::kTimer32 | hpet::kTimerMessage | hpet::kTimerEnable);
    write(hpet::kConfiguration, hpet::kEnable);
  }
  void stop() const noexcept { write(timer_, 0); }
  /// Effects: one NMI, so many ticks from now.
  void set(std::uint64_t ticks) const noexcept {
    // What is past when it is written would not come before the counter is round.
    for (std::uint32_t wait = static_cast<std::uint32_t>(ticks);; wait *= 2) {
      const std::uint32_t due = read(hpet::kCounter) + wait;
      write(timer_ + hpet::kComparator, due);
      if (static_cast<std::int32_t>(due - read(hpet::kCounter)) > 0) return;
    }
  }

 private:
  [[nodiscard]] std::uint32_t read(std::uint64_t at) const noexcept {
    return *reinterpret_cast<const volatile std::uint32_t*>(base_ + at);
  }
  void write(std::uint64_t at, std::uint32_t v) const noexcept {
    *reinterpret_cast<volatile std::uint32_t*>(base_ + at) = v;
  }
  std::uint64_t base_ = 0, timer_ = 0;
};

Alarm the_alarm;
Random moments{0};
std::uint64_t between = 0, shortest = 0, slice = 0;  // in ticks of the alarm
Context* waiting[2] = {};
SwitchCounts counts;
alignas(16) std::byte migration_stack[65536];

Context* first_context(void (*work)()) noexcept {
  // As if called: the ABI wants the stack 8 off a multiple of 16 at the first instruction.
  const std::uint64_t top = reinterpret_cast<std::uint64_t>(migration_stack) + sizeof migration_stack;
  auto* const c = reinterpret_cast<Context*>(top - 64 - sizeof(Context));
  *c = {};
  c->rip = reinterpret_cast<std::uint64_t>(work);
  c->cs = 0x08;
  c->rflags = 2;
  c->rsp = top - 8;
  c->ss = 0x10;
  return c;
}

void count_switch(const Context& c, unsigned from) noexcept {
  const bool by_itself = threads.gives_way;
  threads.gives_way = false;
  if (from == static_cast<unsigned>(Thread::Migration)) {
    (by_itself ? counts.gave_way : counts.preempted) += 1;
    return;
  }
  if (by_itself) return;
  const bool in_guest = c.rip == reinterpret_cast<std::uint64_t>(after_vmexit);
  (in_guest ? counts.from_guest : counts.from_host) += 1;
  counts.under_lock += threads.holds_lock(Thread::Vcpu) ? 1U : 0U;
}

}  // namespace

bool find_alarm() noexcept { return the_alarm.find(take_hpet()); }

void start_threads(void (*work)(), std::uint64_t rate, std::uint64_t seed) noexcept {
  const std::uint64_t second = the_alarm.ticks_a_second();
  moments = Random(seed);
  between = second / rate;
  shortest = second / 200'000;
  slice = second / 4'000;
  waiting[static_cast<unsigned>(Thread::Migration)] = first_context(work);
  install_handler(kNmi, nmi_entry);
  the_alarm.start();
  the_alarm.set(between);
  threads.preemptible = true;
  asm volatile("stgi" : : : "memory");
}

void end_threads() noexcept {
  if (!threads.preemptible) return;
  asm volatile("clgi" : : : "memory");
  threads.preemptible = false;
  the_alarm.stop();
}

const SwitchCounts& switch_counts() noexcept { return counts; }

}  // namespace hv

// Effects: notes where the interrupted thread stands. Returns: where the other one does.
extern "C" hv::Context* nmi_switch(hv::Context* context) noexcept {
  using namespace hv;
  const unsigned from = threads.current, to = from ^ 1U;
  waiting[from] = context;
  count_switch(*context, from);
  threads.current = to;
  threads.switches = threads.switches + 1;
  // Both ends of a slice may lie anywhere. Now and then the vCPU's thread has little time, so that what it does about
  // one exit is interrupted again and again.
  if (to == static_cast<unsigned>(Thread::Migration))
    the_alarm.set(shortest + moments.below(slice));
  else
    the_alarm.set(moments.one_in(4) ? shortest + moments.below(slice) : between / 2 + moments.below(between));
  return waiting[to];
}
