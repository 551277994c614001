// SPDX-License-Identifier: BSL-1.0
#include "log_check.hpp"

#include <bit>

#include "bits.hpp"
#include "checksum.hpp"
#include "cpu.hpp"
#include "report.hpp"

namespace hv {
namespace {

using shadowmmu::DirtyMethod;
using shadowmmu::Gfn;

// What the last call gave out; one log is looked at at a time.
std::uint64_t log_words_out[LogCheck::kMaxPages / 64];

std::uint64_t bit_of(std::uint64_t gfn, std::uint64_t first) noexcept { return 1ULL << ((gfn - first) & 63); }

// Returns: the frame of one of the guest's page tables, chosen at random, while it is in long mode; else 0. Marking
// used entries there, the MMU itself writes guest memory.
std::uint64_t some_table(Cpu& cpu, Random& random) noexcept {
  constexpr std::uint64_t kPresent = 1, kLarge = 1U << 7, kAddress = 0x000FFFFFFFFFF000;
  constexpr unsigned kTries = 64;
  if (!cpu.long_mode()) return 0;
  std::uint64_t table = (cpu.cr3 & kAddress) >> 12;
  for (std::uint64_t down = random.below(4); down != 0; --down) {
    std::uint64_t e = 0;
    for (unsigned i = 0; i < kTries && ((e & kPresent) == 0 || (e & kLarge) != 0); ++i)
      if (!cpu.vm.memory.read((table << 12) + random.below(512) * 8, &e, sizeof e)) return 0;
    if ((e & kPresent) == 0 || (e & kLarge) != 0) return table;
    table = (e & kAddress) >> 12;
  }
  return table;
}

void demand(Cpu& cpu, const shadowmmu::Status& s, const char* what) noexcept {
  if (!s.ok()) fail(cpu, what, static_cast<std::uint64_t>(s.error()));
}

}  // namespace

// Effects: remembers what the page holds now. A page that is no RAM is not watched: its sum stays 0 for ever.
void LogCheck::take(Cpu& cpu, Sample& s, std::uint64_t gfn) noexcept {
  const std::byte* page = cpu.vm.memory.ram(gfn);
  s = {gfn, page == nullptr ? 0 : checksum(page), false};
}

void LogCheck::check(Cpu& cpu, Sample& s, std::uint64_t first_word, Counts& counts) noexcept {
  const std::byte* page = cpu.vm.memory.ram(s.gfn);
  if (page == nullptr) return;
  const bool changed = checksum(page) != s.sum;
  const bool reported = (log_words_out[word_of(s) - first_word] & bit_of(s.gfn, first_)) != 0;
  counts.checks += 1;
  counts.changed += changed || s.owed ? 1U : 0U;
  if ((changed || s.owed) && !reported)
    fail(cpu,
         changed ? method_ == DirtyMethod::DirtyBit
                       ? "torture: the dirty log (by D bits) missed a write to guest frame "
                       : "torture: the dirty log (by write protection) missed a write to guest frame "
                 : "torture: the dirty log forgot, uncleared, guest frame ",
         s.gfn);
}

// Effects: watches another page of the words, more often than not one that was written a moment ago.
void LogCheck::choose(Cpu& cpu, Random& random, Sample& s, std::uint64_t first_word, std::uint64_t words) noexcept {
  constexpr unsigned kTries = 8;
  for (unsigned i = 0; i < kTries && &s - sample_ < kTableSamples; ++i) {
    const std::uint64_t table = some_table(cpu, random);
    if (table - first_ < pages_ && (table - first_) / 64 - first_word < words) return take(cpu, s, table);
  }
  std::uint64_t at = random.below(words);
  if (!random.one_in(3))
    for (std::uint64_t i = 0; i < words; ++i, at = at + 1 == words ? 0 : at + 1) {
      if (log_words_out[at] == 0) continue;
      const auto from = static_cast<int>(random.below(64));
      const auto bit = static_cast<unsigned>(std::countr_zero(std::rotr(log_words_out[at], from)) + from) & 63U;
      return take(cpu, s, first_ + (first_word + at) * 64 + bit);
    }
  const std::uint64_t page = (first_word + at) * 64 + random.below(64);
  take(cpu, s, first_ + (page < pages_ ? page : (first_word + at) * 64));
}

// Effects: tells the log, as PML hardware would, of writes that nobody made: it must report them.
void LogCheck::claim(Cpu& cpu, Random& random) noexcept {
  Sample& s = sample_[random.below(kSamples)];
  const std::uint64_t gpa = s.gfn << 12;
  cpu.mmu.drain_dirty_buffer(&gpa, 1);
  s.owed = true;
}

void LogCheck::start(Cpu& cpu, Random& random, DirtyMethod method) noexcept {
  const shadowmmu::Status began = cpu.mmu.start_dirty_log(id_, method);
  if (!began.ok() && began.error() == shadowmmu::Error::OutOfMemory) return;
  demand(cpu, began, "torture: start_dirty_log: error ");
  method_ = method;
  for (std::uint64_t i = 0; i < log_words(); ++i) log_words_out[i] = 0;
  for (Sample& s : sample_) choose(cpu, random, s, 0, log_words());
}

void LogCheck::fetch(Cpu& cpu, Random& random, Counts& counts) noexcept {
  if (random.one_in(8)) claim(cpu, random);
  const bool all = random.one_in(2);
  const std::uint64_t first = all ? 0 : random.below(log_words());
  const std::uint64_t count = all ? log_words() : 1 + random.below(log_words() - first);
  demand(cpu, cpu.mmu.fetch_dirty_log(id_, first, count, log_words_out), "torture: fetch_dirty_log: error ");
  for (std::uint64_t i = 0; i < count; ++i) counts.reported += count_bits(log_words_out[i]);
  for (Sample& s : sample_) {
    if (word_of(s) - first >= count) continue;
    check(cpu, s, first, counts);
    if (random.one_in(2))
      take(cpu, s, s.gfn);
    else
      choose(cpu, random, s, first, count);
  }
}

void LogCheck::read_and_clear(Cpu& cpu, Random& random, Counts& counts) noexcept {
  demand(cpu, cpu.mmu.read_dirty_log(id_, 0, log_words(), log_words_out), "torture: read_dirty_log: error ");
  for (Sample& s : sample_) {
    check(cpu, s, 0, counts);
    s.owed = (log_words_out[word_of(s)] & bit_of(s.gfn, first_)) != 0;
  }
  for (std::uint64_t i = 0; i < log_words(); ++i) {
    if (log_words_out[i] == 0 || random.one_in(4)) continue;
    const std::uint64_t mask = random.one_in(2) ? ~0ULL : random.next();
    demand(cpu, cpu.mmu.clear_dirty_log(id_, i, mask), "torture: clear_dirty_log: error ");
    for (Sample& s : sample_)
      if (word_of(s) == i && (mask & bit_of(s.gfn, first_)) != 0) take(cpu, s, s.gfn);
  }
}

void LogCheck::stop(Cpu& cpu, Random& random, Counts& counts) noexcept {
  fetch(cpu, random, counts);
  demand(cpu, cpu.mmu.stop_dirty_log(id_), "torture: stop_dirty_log: error ");
  method_ = DirtyMethod::Off;
}

}  // namespace hv
