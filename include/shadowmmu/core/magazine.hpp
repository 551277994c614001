// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>

#include "shadowmmu/result.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::core {

/// Zeroes a 4 KiB frame. Word by word: a freestanding embedder may have a slow memset.
inline void clear_frame(void* p) noexcept { __builtin_memset(p, 0, kPageSize); }

/// Zeroed frames in the embedder's hands no more and in no structure yet. Everything a fault may need is here before
/// the lock is taken; nothing is asked of the Host behind it.
class Magazine {
 public:
  /// Worst case of one fault or root load: four PDs of a PAE root, or three levels below a 4-level one.
  static constexpr unsigned kTables = 5;
  /// Side frames 4, tracking frames 4, rmap heads 1, page pool 2, cell pool 2, hash 2; rest: prefetch.
  static constexpr unsigned kMeta = 20;

  [[nodiscard]] bool ready() const noexcept { return tables_ == kTables && meta_ >= kMeta - 4U; }
  /// Effects: fills up from the Host. Errors: OutOfMemory (what came is kept). Locking: none may be held.
  template <class Host>
  [[nodiscard]] Status fill(Host& host) noexcept {
    while (tables_ < kTables) {
      void* p = fresh(host, FrameKind::Table);
      if (p == nullptr) return Error::OutOfMemory;
      table_[tables_++] = p;
    }
    while (meta_ < kMeta) {
      void* p = fresh(host, FrameKind::Metadata);
      if (p == nullptr) return Error::OutOfMemory;
      frame_[meta_++] = p;
    }
    return Unit{};
  }
  /// Returns: a zeroed frame. Requires: has_table() / has_meta().
  [[nodiscard]] bool has_table() const noexcept { return tables_ != 0; }
  [[nodiscard]] void* take_table() noexcept { return table_[--tables_]; }
  [[nodiscard]] bool has_meta() const noexcept { return meta_ != 0; }
  [[nodiscard]] unsigned meta() const noexcept { return meta_; }
  [[nodiscard]] unsigned held() const noexcept { return meta_ + tables_; }
  [[nodiscard]] void* take_meta() noexcept { return frame_[--meta_]; }
  template <class Host>
  void drain(Host& host) noexcept {
    while (tables_ != 0) host.free_frame(host.to_phys(table_[--tables_]));
    while (meta_ != 0) host.free_frame(host.to_phys(frame_[--meta_]));
  }
  template <class Host>
  [[nodiscard]] static void* fresh(Host& host, FrameKind kind) noexcept {
    const Result<Hpa> r = host.alloc_frame(kind);
    if (!r) return nullptr;
    void* p = host.to_virt(r.value());
    clear_frame(p);
    return p;
  }

 private:
  std::uint8_t tables_ = 0, meta_ = 0;
  void* table_[kTables] = {};
  void* frame_[kMeta] = {};
};

}  // namespace shadowmmu::core
