// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <concepts>
#include <cstdint>

#include "shadowmmu/flush.hpp"
#include "shadowmmu/result.hpp"
#include "shadowmmu/types.hpp"

/// What the embedder's environment must offer. All functions are public, noexcept, and safe from every thread that
/// uses the Mmu. They may be called with the Mmu's lock held unless said otherwise, and must not call back into it.
namespace shadowmmu {

/// What a compare-exchange on guest memory came to.
enum class GuestExchange : std::uint8_t {
  Done,
  Lost,      ///< the entry held another value
  ReadOnly,  ///< the guest's memory there takes no writes (ROM); accessed/dirty updates are skipped then
};

template <class H>
concept HostComplete = requires {
  sizeof(H);
};

/// Frames: single, 4 KiB, contents undefined. `TableBelow4G` must lie below 4 GiB.
/// alloc_frame is called without the Mmu's lock; free_frame also with it held.
template <class H>
concept HostFrames = requires(H& h, FrameKind k, Hpa p) {
  { h.alloc_frame(k) }
  noexcept->std::same_as<Result<Hpa>>;
  { h.free_frame(p) }
  noexcept;
};

/// Host physical address <-> pointer, for frames that alloc_frame gave. Constant time.
template <class H>
concept HostAddresses = requires(H& h, Hpa p, const void* v) {
  { h.to_virt(p) }
  noexcept->std::same_as<void*>;
  { h.to_phys(v) }
  noexcept->std::same_as<Hpa>;
};

/// Guest memory: the 4 KiB of a gfn inside some memslot, or nullptr where it cannot be read; and compare-exchange of
/// an aligned 4- or 8-byte entry, sequentially consistent (which marks the frame dirty if the embedder keeps such
/// marks).
template <class H>
concept HostGuestMemory = requires(H& h, Gfn g, Gpa a, unsigned bytes, std::uint64_t v) {
  { h.guest_page(g) }
  noexcept->std::convertible_to<const void*>;
  { h.guest_exchange(a, bytes, v, v) }
  noexcept->std::same_as<GuestExchange>;
};

/// What backs a gfn of a memslot now. `write`: the access wants to write (copy-on-write may be broken for it).
/// Must not block: what takes time answers Pending with a token.
template <class H>
concept HostBacking = requires(H& h, Gfn g, bool write) {
  { h.backing(g, write) }
  noexcept->std::same_as<Backing>;
};

/// TLB control. `flush` returns when no named vCPU can use a forgotten translation any more. `kick_and_wait` returns
/// when each named vCPU has left guest mode, or will call `Vcpu::enter` before it runs guest code again. What the
/// caller did before happens before the guest code that a named vCPU runs next, and with `kick_and_wait` before that
/// `enter`.
template <class H>
concept HostFlush = requires(H& h, const FlushRequest& r, VcpuId v) {
  { h.flush(r) }
  noexcept;
  { h.kick_and_wait(v) }
  noexcept;
};

/// What goes on beside the Mmu. `should_yield`: whether long work should let the Mmu's lock go although nobody waits
/// for it (a pending reschedule, say); the Mmu asks after every few pages of it. `wrote` tells that the guest may have
/// written gfns [first, first + pages) through an entry that is losing its mark: the Host must treat what backs them as
/// dirty. Both may be called with the lock held.
template <class H>
concept HostNotes = requires(H& h, Gfn first, std::uint64_t pages) {
  { h.should_yield() }
  noexcept->std::same_as<bool>;
  { h.wrote(first, pages) }
  noexcept;
};

template <class H>
concept Host = HostComplete<H> && HostFrames<H> && HostAddresses<H> && HostGuestMemory<H> && HostBacking<H> &&
    HostFlush<H> && HostNotes<H>;

}  // namespace shadowmmu
