// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstring>
#include <set>
#include <vector>

#include "shadowmmu/config.hpp"
#include "shadowmmu/host/arena.hpp"
#include "shadowmmu/sim/cpu.hpp"
#include "shadowmmu/sim/poison.hpp"
#include "shadowmmu/sim/random.hpp"

namespace shadowmmu::test {

/// The least limit is made for two addresses an instruction rather than sixteen: small worlds reach it.
struct SmallLimit : config::Default {
  static constexpr unsigned kInstructionAddresses = 2;
};

/// An arena whose guest frames are shuffled over host frames, whose allocations can be made to fail, and whose freed
/// frames are filled with entries that lead nowhere, so that hardware which still walks one is found out. What it
/// answers is virtual: a test that needs other answers derives from it, and has no Mmu of its own to compile.
class TestHost : public host::Arena {
 public:
  TestHost(std::uint64_t guest_pages, std::uint64_t frames, std::uint64_t seed = 1)
      : Arena(2 * guest_pages, frames), pages_(guest_pages) {
    for (std::uint64_t i = 0; i < 2 * guest_pages; ++i) place_.push_back(i);
    sim::Random rng(seed);
    rng.shuffle(place_);
    whole_.resize(guest_pages / 512 + 1);
    read_only_.resize(guest_pages);
  }
  virtual ~TestHost() = default;
  /// Effects: from now on the guest's memory lies in host pages of 2 MiB, shuffled as such. Requires: nothing is
  /// mapped.
  void use_large_pages(std::uint64_t seed) {
    std::vector<std::uint64_t> blocks(place_.size() / 512);
    for (std::uint64_t i = 0; i < blocks.size(); ++i) blocks[i] = i;
    sim::Random rng(seed);
    rng.shuffle(blocks);
    for (std::uint64_t i = 0; i < blocks.size() * 512; ++i) place_[i] = blocks[i / 512] * 512 + i % 512;
    for (auto&& w : whole_) w = true;
  }
  virtual Result<Hpa> alloc_frame(FrameKind k) noexcept {
    allocations += 1;
    if (fail_in != 0 && --fail_in == 0) {
      failures += 1;
      return Error::OutOfMemory;
    }
    return Arena::alloc_frame(k);
  }
  virtual void free_frame(Hpa p) noexcept {
    sim::poison(to_virt(p));
    Arena::free_frame(p);
  }
  virtual void flush(const FlushRequest& r) noexcept { Arena::flush(r); }
  virtual void kick_and_wait(VcpuId) noexcept { kicks += 1; }
  bool should_yield() noexcept { return yield_at_once; }
  void wrote(Gfn first, std::uint64_t pages) noexcept {
    for (std::uint64_t i = 0; i < pages; ++i) told.insert(first.value() + i);
  }
  virtual void* guest_page(Gfn g) noexcept {
    return g.value() < pages_ ? Arena::guest_page(Gfn{place_[g.value()]}) : nullptr;
  }
  GuestExchange guest_exchange(Gpa a, unsigned bytes, std::uint64_t old, std::uint64_t now) noexcept {
    if (frame_of(a).value() >= pages_ || read_only_[frame_of(a).value()]) return GuestExchange::ReadOnly;
    return exchange(static_cast<char*>(guest_page(frame_of(a))) + (a.value() & kPageMask), bytes, old, now);
  }
  virtual Backing backing(Gfn g, bool write) noexcept {
    if (g.value() >= pages_) return {};
    Backing b = Arena::backing(Gfn{place_[g.value()]}, write);
    b.level = whole_[g.value() / 512] ? Level{2} : Level{1};
    if (read_only_[g.value()]) b.kind = Backing::Kind::ReadOnly;
    return b;
  }

  /// Effects: the Host moves the frame elsewhere, contents and all. Requires: an invalidation of g is in progress.
  void rebase(Gfn g, std::uint64_t choice) noexcept {
    const std::uint64_t other = pages_ + choice % pages_;
    std::memcpy(Arena::guest_page(Gfn{place_[other]}), guest_page(g), kPageSize);
    std::memset(guest_page(g), 0x5a, kPageSize);
    std::swap(place_[g.value()], place_[other]);
    whole_[g.value() / 512] = false;
  }
  /// Returns: the guest frame that lies at this host address, or guest_pages() if none does.
  [[nodiscard]] std::uint64_t gfn_at(Hpa a) const noexcept {
    const std::uint64_t f = (a.value() - kGuestBase) >> kPageShift;
    for (std::uint64_t g = 0; g < pages_; ++g)
      if (place_[g] == f) return g;
    return pages_;
  }
  [[nodiscard]] std::uint64_t guest_pages() const noexcept { return pages_; }
  void set_read_only(Gfn g, bool on) noexcept { read_only_[g.value()] = on; }

  /// Effects: no slot owns [first, end): the guest finds no memory there.
  void hide(std::uint64_t first, std::uint64_t end) noexcept {
    hidden_first_ = first;
    hidden_end_ = end;
  }
  [[nodiscard]] bool hidden(std::uint64_t gfn) const noexcept { return gfn >= hidden_first_ && gfn < hidden_end_; }

  // What the oracle reads through.
  bool read(Gpa at, unsigned bytes, std::uint64_t& value) noexcept {
    const char* page = static_cast<const char*>(guest_page(frame_of(at)));
    if (page == nullptr || hidden(frame_of(at).value())) return false;
    value = 0;
    std::memcpy(&value, page + (at.value() & kPageMask), bytes);
    return true;
  }
  bool write(Gpa at, unsigned bytes, std::uint64_t value) noexcept {
    char* page = static_cast<char*>(guest_page(frame_of(at)));
    if (page == nullptr) return false;
    std::memcpy(page + (at.value() & kPageMask), &value, bytes);
    return true;
  }

  std::uint64_t allocations = 0, failures = 0;
  std::uint64_t fail_in = 0;  ///< the n-th allocation from now fails
  std::uint64_t kicks = 0;
  bool yield_at_once = false;    ///< long work is asked to yield whenever it may
  std::set<std::uint64_t> told;  ///< gfns that the Mmu said were written

 private:
  std::uint64_t pages_;
  std::uint64_t hidden_first_ = 0, hidden_end_ = 0;
  std::vector<std::uint64_t> place_;
  std::vector<bool> read_only_;
  std::vector<bool> whole_;  ///< the 2 MiB of guest frames are one host page
};

/// All frames that a Host has left, until this ends.
class Hoard {
 public:
  explicit Hoard(TestHost& h) : host_(h) {
    for (Result<Hpa> r = h.alloc_frame(FrameKind::Table); r.ok(); r = h.alloc_frame(FrameKind::Table))
      frames_.push_back(r.value());
  }
  Hoard(const Hoard&) = delete;
  ~Hoard() {
    for (const Hpa p : frames_) host_.free_frame(p);
  }

 private:
  TestHost& host_;
  std::vector<Hpa> frames_;
};

/// A simulated CPU whose TLB hears the Host's flushes, and only those.
class TestCpu : public host::FlushListener {
 public:
  TestCpu(TestHost& host, VcpuId id, sim::CpuConfig config) : cpu(host, config), host_(host), id_(id) {
    host.listen(*this);
  }
  ~TestCpu() override { host_.unlisten(*this); }
  void on_flush(const FlushRequest& r) noexcept override {
    if (r.vcpus != kAllVcpus && r.vcpus != id_) return;
    if (r.scope == FlushRequest::Scope::Structures) {
      cpu.flush_all();
      reload = true;
    } else if (r.vcpus == id_) {
      for (std::uint64_t i = 0; i < r.pages; ++i) cpu.flush_page(Gva{(r.first + i) << kPageShift});
    } else {
      cpu.flush_range(r.first << kPageShift, r.pages);
    }
  }
  sim::Cpu<TestHost> cpu;
  bool reload = true;  ///< CR3 must be loaded before the next entry

 private:
  TestHost& host_;
  VcpuId id_;
};

}  // namespace shadowmmu::test
