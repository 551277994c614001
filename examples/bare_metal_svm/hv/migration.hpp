// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "mmu.hpp"
#include "random.hpp"
#include "shadowmmu/result.hpp"

namespace hv {

struct Cpu;

/// A second thread of the host's beside the running guest, as one that migrates a VM is: it walks shadow tables, reads
/// dirty logs, write-protects what they name, all as a reader that takes no lock. It is let in by an NMI wherever the
/// vCPU's thread stands, in the MMU's critical sections as well, and stopped by another wherever it stands itself
/// (threads.hpp).
///
/// What it sees is checked. A walk never ends in the hypervisor's own memory: freed frames are filled with entries that
/// lead there. A page of a sample whose contents changed is named by the slot's dirty log.
class Migration {
 public:
  struct Options {
    std::uint64_t rate = 0;  ///< turns a second
    std::uint64_t seed = 0;
    std::uint64_t own_end = 0;  ///< [1 MiB, own_end) is the hypervisor's own memory
  };
  static constexpr unsigned kNoSlot = ~0U;

  Migration(Cpu& cpu, const Options& options) noexcept;

  /// Effects: the slot's writes may be logged here, and nowhere else. Returns: its number, or kNoSlot. Requires: start
  /// was not called.
  [[nodiscard]] unsigned adopt(shadowmmu::SlotId id, std::uint64_t first, std::uint64_t pages) noexcept;
  /// Effects: its slot will be removed, or was added again.
  void goes(unsigned slot) noexcept;
  void is_back(unsigned slot, shadowmmu::SlotId id) noexcept;
  /// Effects: the address is worth a look from now on.
  void mapped(std::uint64_t va) noexcept { hot_[next_hot_++ % kHot] = va; }

  /// Effects: the thread runs from now on. Requires: the vCPU's registers are set, SVM is on.
  void start() noexcept;
  /// Effects: ends the run if a check has failed. Call it after every exit, in the vCPU's thread.
  void after_exit() noexcept;
  /// Effects: the thread ends; prints what it did, and an error line for what never was.
  void report() noexcept;

 private:
  static constexpr unsigned kHot = 256, kMaxSlots = 8, kSamples = 48;
  static constexpr std::uint64_t kMaxWords = 2048;

  struct Slot {
    volatile std::uint32_t id = 0;
    std::uint64_t first = 0, pages = 0;
    volatile bool here = false;
    volatile std::uint64_t removals = 0;
  };
  struct Sample {
    bool valid = false;
    bool owed = false;  ///< the log said so and was not cleared: it must say so again
    std::uint64_t gfn = 0, sum = 0;
    std::uint64_t seen_late = 0;  ///< the turn of the vCPU at which a change was seen that the log had not; 0: none
  };
  /// How often, and how often of that the vCPU's thread held a lock all the while.
  struct Count {
    std::uint64_t all = 0, beside_lock = 0;
  };
  enum Kind : unsigned { kLookup, kTranslate, kYoung, kRead, kFetchWrites, kFetchDirtyBits, kClear, kKinds };

  [[noreturn]] static void work() noexcept;
  [[noreturn]] void park() noexcept;
  [[noreturn]] void give_up(const char* what, std::uint64_t number) noexcept;
  template <class F>
  auto counted(Kind kind, F&& f) noexcept;

  void act() noexcept;
  [[nodiscard]] std::uint64_t some_address() noexcept;
  void look(std::uint64_t va) noexcept;
  void look_around() noexcept;
  void translate() noexcept;
  void young() noexcept;

  void log() noexcept;
  void start_log() noexcept;
  void round() noexcept;
  [[nodiscard]] bool took(const shadowmmu::Status& s, const char* what) noexcept;
  [[nodiscard]] bool sum_of(std::uint64_t gfn, std::uint64_t& sum) noexcept;
  void take(Sample& s, std::uint64_t gfn) noexcept;
  void choose(Sample& s) noexcept;
  void check(Sample& s, bool changed, bool named, std::uint64_t began) noexcept;
  [[nodiscard]] shadowmmu::SlotId log_id() const noexcept { return shadowmmu::SlotId{log_id_}; }
  [[nodiscard]] std::uint64_t words() const noexcept { return (slot_[logged_].pages + 63) / 64; }
  [[nodiscard]] std::uint64_t index(const Sample& s) const noexcept { return s.gfn - slot_[logged_].first; }

  Cpu& cpu_;
  Options options_;
  Random random_;
  Mmu::Reader reader_;
  Slot slot_[kMaxSlots] = {};
  unsigned slots_ = 0;
  std::uint64_t hot_[kHot] = {};
  unsigned next_hot_ = 0;

  unsigned logged_ = kNoSlot, rounds_left_ = 0;
  std::uint32_t log_id_ = 0;
  std::uint64_t log_removals_ = 0;
  shadowmmu::DirtyMethod method_ = shadowmmu::DirtyMethod::Off;
  Sample sample_[kSamples] = {};
  std::uint64_t out_[kMaxWords] = {};
  bool changed_[kSamples] = {};

  Count count_[kKinds] = {};
  std::uint64_t present_ = 0, found_young_ = 0, named_ = 0, checks_ = 0, changes_ = 0, late_ = 0, logs_ = 0, gone_ = 0;
  const char* lost_ = nullptr;  ///< what was wrong with a walk
  std::uint64_t lost_number_ = 0;
  const char* volatile problem_ = nullptr;
  volatile std::uint64_t problem_number_ = 0;
  volatile bool stop_wanted_ = false, parked_ = false;
  bool started_ = false;
};

/// Effects: makes the one Migration, for as long as the machine runs.
[[nodiscard]] Migration* make_migration(Cpu& cpu, const Migration::Options& options) noexcept;

}  // namespace hv
