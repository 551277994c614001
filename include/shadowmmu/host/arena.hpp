// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "shadowmmu/check.hpp"
#include "shadowmmu/concepts/host.hpp"
#include "shadowmmu/memory/smp.hpp"

/// User-space default of the handler that debug builds and checked locks call.
extern "C" [[gnu::weak, noreturn]] void shadowmmu_assert_fail(const char* what) noexcept {
  std::fprintf(stderr, "shadowmmu: assertion failed: %s\n", what);
  std::abort();
}

/// User-space default of what tells threads apart.
extern "C" [[gnu::weak]] const void* shadowmmu_this_thread() noexcept {
  static thread_local char here = 0;
  return &here;
}

namespace shadowmmu::host {

/// Told of every flush; a simulated CPU is one.
class FlushListener {
 public:
  virtual ~FlushListener() = default;
  virtual void on_flush(const FlushRequest& request) noexcept = 0;
};

/// A hosted machine: one mmap for guest memory and one for tables, each with made-up host physical addresses. Guest
/// frame g lies at host frame kGuestBase + g; derive to back it otherwise.
class Arena {
 public:
  static constexpr std::uint64_t kTableBase = std::uint64_t{1} << 20;  ///< Hpa of the first table frame: below 4 GiB
  static constexpr std::uint64_t kGuestBase = std::uint64_t{1} << 33;  ///< Hpa of guest frame 0, 1 GiB aligned

  /// Effects: guest_pages of zeroed guest memory from gfn 0, and room for table_frames frames. Throws std::bad_alloc.
  Arena(std::uint64_t guest_pages, std::uint64_t table_frames) : Arena(guest_pages, table_frames, Lent{}) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  /// A debug build calls the handler where somebody still has frames: whoever was given them leaks, or lives too long.
  ~Arena() {
    detail::require(used_ == 0, "an Arena ends while frames of it are in use");
    if (!lent_.guest) ::munmap(guest_, guest_pages_ * kPageSize);
    if (!lent_.tables) ::munmap(tables_, table_frames_ * kPageSize);
  }

  Result<Hpa> alloc_frame(FrameKind) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::uint64_t f = 0;
    if (!free_.empty()) {
      f = free_.back();
      free_.pop_back();
    } else if (next_ < table_frames_) {
      f = next_++;
    } else {
      return Error::OutOfMemory;
    }
    used_ += 1;
    return Hpa{kTableBase + f * kPageSize};
  }
  void free_frame(Hpa p) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    used_ -= 1;
    free_.push_back((p.value() - kTableBase) / kPageSize);
  }
  /// Returns: nullptr for an address that is neither table nor guest memory.
  void* to_virt(Hpa p) noexcept {
    if (p.value() - kTableBase < table_frames_ * kPageSize) return tables_ + (p.value() - kTableBase);
    if (p.value() - kGuestBase < guest_pages_ * kPageSize) return guest_ + (p.value() - kGuestBase);
    return nullptr;
  }
  Hpa to_phys(const void* v) noexcept {
    return Hpa{kTableBase + static_cast<std::uint64_t>(static_cast<const char*>(v) - tables_)};
  }
  void* guest_page(Gfn g) noexcept { return g.value() < guest_pages_ ? guest_ + g.value() * kPageSize : nullptr; }
  GuestExchange guest_exchange(Gpa a, unsigned bytes, std::uint64_t old, std::uint64_t now) noexcept {
    char* page = static_cast<char*>(guest_page(frame_of(a)));
    if (page == nullptr) return GuestExchange::ReadOnly;
    char* at = page + (a.value() & kPageMask);
    return exchange(at, bytes, old, now);
  }
  Backing backing(Gfn g, bool) noexcept {
    Backing b;
    if (g.value() >= guest_pages_) return b;
    b.kind = Backing::Kind::Memory;
    b.pfn = Pfn{(kGuestBase >> kPageShift) + g.value()};
    b.level = level_;
    return b;
  }
  void flush(const FlushRequest& r) noexcept {
    for (FlushListener* l : listeners_) l->on_flush(r);
  }
  void kick_and_wait(VcpuId) noexcept {}
  bool should_yield() noexcept { return false; }
  void wrote(Gfn, std::uint64_t) noexcept {}

  void listen(FlushListener& l) { listeners_.push_back(&l); }
  void unlisten(FlushListener& l) { std::erase(listeners_, &l); }
  /// Effects: guest memory claims to lie in host pages of this level (it is contiguous, and aligned at gfn 0).
  void set_backing_level(Level l) noexcept { level_ = l; }
  [[nodiscard]] std::uint64_t frames_used() const noexcept { return used_; }
  [[nodiscard]] std::uint64_t guest_pages() const noexcept { return guest_pages_; }

 protected:
  /// Memory that outlives the Arena, so that who makes very many need not have each page faulted in anew. Guest memory
  /// is zeroed by the lender; what table frames hold is nobody's business. nullptr: the Arena maps its own.
  struct Lent {
    char* guest = nullptr;
    char* tables = nullptr;
  };
  Arena(std::uint64_t guest_pages, std::uint64_t table_frames, Lent lent)
      : guest_pages_(guest_pages),
        table_frames_(table_frames),
        lent_(lent),
        guest_(lent.guest ? lent.guest : map(guest_pages)),
        tables_(lent.tables ? lent.tables : map(table_frames)) {}

  static GuestExchange exchange(void* at, unsigned bytes, std::uint64_t old, std::uint64_t now) noexcept {
    bool done = false;
    if (bytes == 4) {
      auto expected = static_cast<std::uint32_t>(old);
      done = memory::Smp::compare_exchange<memory::Order::SeqCst>(*static_cast<std::uint32_t*>(at), expected,
                                                                  static_cast<std::uint32_t>(now));
    } else {
      done = memory::Smp::compare_exchange<memory::Order::SeqCst>(*static_cast<std::uint64_t*>(at), old, now);
    }
    return done ? GuestExchange::Done : GuestExchange::Lost;
  }

 private:
  static char* map(std::uint64_t pages) {
    void* p =
        ::mmap(nullptr, pages * kPageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    return static_cast<char*>(p);
  }
  std::uint64_t guest_pages_, table_frames_;
  Lent lent_;
  char* guest_;
  char* tables_;
  Level level_{1};
  std::vector<FlushListener*> listeners_;
  alignas(64) std::mutex mutex_;  // what follows changes with every frame; to_virt reads what stands before
  std::vector<std::uint64_t> free_;
  std::uint64_t next_ = 0, used_ = 0;
};
static_assert(Host<Arena>);

}  // namespace shadowmmu::host
