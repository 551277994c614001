// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstdint>
#include <new>

#include "shadowmmu/core/page.hpp"
#include "shadowmmu/types.hpp"

namespace shadowmmu::core {

/// (gfn, role) -> shadow page. Hashed by gfn alone, so that all roles of one guest table share a bucket. Grows by one
/// bucket at a time (linear hashing): no pause that is proportional to the number of pages. Not locked.
/// Invariant: size_ pages in buckets 0 .. buckets_-1; split_ = buckets_ - base_, base_ a power of two.
template <class Page>
class PageHash {
 public:
  using Bucket = MemberChain<Page, &Page::hash_hook>;
  static constexpr unsigned kPerFrame = kPageSize / sizeof(void*);
  static constexpr unsigned kFrames = 512;
  static_assert(sizeof(Bucket) == sizeof(void*));

  [[nodiscard]] bool ready() const noexcept { return buckets_ != 0; }
  [[nodiscard]] std::uint32_t size() const noexcept { return size_; }
  [[nodiscard]] unsigned frames() const noexcept {
    return buckets_ == 0 ? 0U : 1U + (made_ + kPerFrame - 1U) / kPerFrame;
  }
  /// Effects: takes the directory and the first 512 buckets. Frames are zeroed.
  void start(void* directory, void* first) noexcept {
    directory_ = static_cast<Directory*>(directory);
    make(first);
    base_ = buckets_ = kPerFrame;
  }
  /// Returns: every page of this gfn, of whatever role, and strangers that share the bucket: check.
  [[nodiscard]] Bucket& bucket(Gfn gfn) noexcept { return at(place(gfn)); }
  void insert(Page& p) noexcept {
    bucket(p.gfn).push_front(p);
    size_ += 1;
  }
  void erase(Page& p) noexcept {
    Bucket& b = bucket(p.gfn);
    auto before = b.before_begin();
    for (auto it = b.begin(); it != b.end(); before = it++) {
      if (&*it == &p) {
        b.erase_after(before);
        size_ -= 1;
        return;
      }
    }
  }
  [[nodiscard]] bool wants_growth() const noexcept { return size_ > buckets_ && buckets_ < kFrames * kPerFrame; }
  [[nodiscard]] bool needs_frame() const noexcept { return buckets_ == made_; }
  /// Effects: splits one bucket. `frame`: a zeroed frame where needs_frame(), else unused. Complexity: one chain.
  void grow(void* frame) noexcept {
    if (needs_frame()) make(frame);
    const std::uint32_t from = buckets_ - base_;
    buckets_ += 1;
    Bucket& old = at(from);
    Bucket& fresh = at(buckets_ - 1);
    if (buckets_ == 2 * base_) base_ = buckets_;
    auto before = old.before_begin();
    for (auto it = old.begin(); it != old.end();) {
      Page& p = *it;
      ++it;
      if (&at(place(p.gfn)) == &old) {
        ++before;
        continue;
      }
      old.erase_after(before);
      fresh.push_front(p);
    }
  }
  template <class Free>
  void drain(Free&& free) noexcept {
    if (buckets_ == 0) return;
    for (std::uint32_t f = 0; f * kPerFrame < made_; ++f) free(directory_->frame[f]);
    free(directory_);
    buckets_ = made_ = base_ = size_ = 0;
  }

 private:
  struct Directory {
    void* frame[kFrames];
  };
  void make(void* frame) noexcept {
    directory_->frame[made_ / kPerFrame] = frame;
    auto* b = static_cast<Bucket*>(frame);
    for (unsigned i = 0; i < kPerFrame; ++i) ::new (static_cast<void*>(b + i)) Bucket();
    made_ += kPerFrame;
  }
  [[nodiscard]] std::uint32_t place(Gfn gfn) const noexcept {
    // Fibonacci hashing: every bit of the gfn counts (aligned leaf tables differ only above bit 9).
    const auto h = static_cast<std::uint32_t>((gfn.value() * 0x9e37'79b9'7f4a'7c15ULL) >> 32U);
    const std::uint32_t wide = h & (2 * base_ - 1);
    return wide < buckets_ ? wide : h & (base_ - 1);
  }
  [[nodiscard]] Bucket& at(std::uint32_t i) noexcept {
    return static_cast<Bucket*>(directory_->frame[i / kPerFrame])[i % kPerFrame];
  }

  Directory* directory_ = nullptr;
  std::uint32_t buckets_ = 0, base_ = 0, made_ = 0, size_ = 0;
};

}  // namespace shadowmmu::core
