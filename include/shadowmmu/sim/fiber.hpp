// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

// Where threads have shadow stacks, only the C library knows how to leave one.
#if defined(__x86_64__) && defined(__LP64__) && !(defined(__CET__) && (__CET__ & 2))
#define SHADOWMMU_FIBER_OWN_SWITCH 1
#else
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#define SHADOWMMU_FIBER_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SHADOWMMU_FIBER_ASAN 1
#endif
#endif
#ifdef SHADOWMMU_FIBER_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#define SHADOWMMU_FIBER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SHADOWMMU_FIBER_TSAN 1
#endif
#endif
#ifdef SHADOWMMU_FIBER_TSAN
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
void AnnotateIgnoreSyncBegin(const char* file, int line);
void AnnotateIgnoreSyncEnd(const char* file, int line);
}
#endif

namespace shadowmmu::sim {

/// To the sanitizer of threads each fiber is a thread, and a switch orders nothing: what one fiber writes another may
/// read only where atomics, or these, say so. What the scheduler of fibers does to its own data in between is not
/// looked at: it holds an Unseen. None of this does anything without that sanitizer.
#ifdef SHADOWMMU_FIBER_TSAN
inline constexpr bool kRacesShow = true;
inline void publish(void* to) noexcept { __tsan_release(to); }
inline void take_over(void* from) noexcept { __tsan_acquire(from); }
struct Unseen {
  Unseen() noexcept { begin(); }
  Unseen(const Unseen&) = delete;
  ~Unseen() { end(); }
  static void begin() noexcept {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  static void end() noexcept {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};
/// Locks that are taken meanwhile order nothing, either.
struct UnseenLocks {
  UnseenLocks() noexcept { AnnotateIgnoreSyncBegin(__FILE__, __LINE__); }
  UnseenLocks(const UnseenLocks&) = delete;
  ~UnseenLocks() { AnnotateIgnoreSyncEnd(__FILE__, __LINE__); }
};
#else
inline constexpr bool kRacesShow = false;
inline void publish(void* /*to*/) noexcept {}
inline void take_over(void* /*from*/) noexcept {}
struct Unseen {
  Unseen() noexcept {}
  Unseen(const Unseen&) = delete;
  ~Unseen() {}
};
struct UnseenLocks {
  UnseenLocks() noexcept {}
  UnseenLocks(const UnseenLocks&) = delete;
  ~UnseenLocks() {}
};
#endif

#ifdef SHADOWMMU_FIBER_OWN_SWITCH
/// Where a fiber continues. swapcontext() would ask the kernel for the mask of signals besides, each time, which took a
/// third of the time of an exploration. Control words of floating point are nobody's here.
class Context {
 public:
  /// Effects: the next swap to it calls entry on the stack.
  void prepare(std::byte* stack, std::size_t bytes, void (*entry)()) noexcept {
    std::byte* const top = stack + bytes - (reinterpret_cast<std::uintptr_t>(stack + bytes) & 15U);
#ifdef SHADOWMMU_FIBER_ASAN
    // Frames that never returned have left their red zones.
    if (at_ != nullptr)
      __asan_unpoison_memory_region(at_, static_cast<std::size_t>(top - static_cast<std::byte*>(at_)));
#endif
    // What exchange() expects: six registers and where to return to; then what the entry takes for its own return.
    void** const at = reinterpret_cast<void**>(top) - 8;
    for (unsigned i = 0; i < 8; ++i) at[i] = nullptr;
    at[6] = reinterpret_cast<void*>(entry);
    at_ = at;
  }
  static void swap(Context& from, const Context& to) noexcept { exchange(&from.at_, &to.at_); }

 private:
  // In assembly also because the sanitizer of threads must see neither access. Callers must not be told (by -fipa-ra)
  // that it leaves all registers alone. The moves are spelt as bytes for -masm=intel, which would read them backwards.
#ifndef __clang__
  [[gnu::noipa, gnu::no_stack_protector]]
#endif
  [[gnu::naked, gnu::noinline]] static void
  exchange([[maybe_unused]] void** from, [[maybe_unused]] void* const* to) noexcept {
    asm("pushq %rbp\n\t"
        "pushq %rbx\n\t"
        "pushq %r12\n\t"
        "pushq %r13\n\t"
        "pushq %r14\n\t"
        "pushq %r15\n\t"
        ".byte 0x48, 0x89, 0x27\n\t"  // movq %rsp, (%rdi)
        ".byte 0x48, 0x8b, 0x26\n\t"  // movq (%rsi), %rsp
        "popq %r15\n\t"
        "popq %r14\n\t"
        "popq %r13\n\t"
        "popq %r12\n\t"
        "popq %rbx\n\t"
        "popq %rbp\n\t"
        "ret");
  }
  void* at_ = nullptr;
};
#else
class Context {
 public:
  void prepare(std::byte* stack, std::size_t bytes, void (*entry)()) noexcept {
    getcontext(&context_);
    context_.uc_stack.ss_sp = stack;
    context_.uc_stack.ss_size = bytes;
    context_.uc_link = nullptr;
    makecontext(&context_, entry, 0);
  }
  static void swap(Context& from, const Context& to) noexcept { swapcontext(&from.context_, &to.context_); }

 private:
  ucontext_t context_{};
};
#endif

/// A stack and a place to continue. One that owns no stack stands for the thread that began.
class Fiber {
 public:
  Fiber() noexcept = default;
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
#ifdef SHADOWMMU_FIBER_TSAN
  ~Fiber() {
    if (stack_ != nullptr) __tsan_destroy_fiber(tsan_);
  }
#endif

  /// Effects: the next switch to this fiber calls entry on its own stack, kept from run to run. entry never returns.
  void prepare(void (*entry)(), std::size_t stack_bytes) {
    if (size_ < stack_bytes) {
      stack_ = std::make_unique_for_overwrite<std::byte[]>(stack_bytes);
      size_ = stack_bytes;
      context_ = Context();
    }
#ifdef SHADOWMMU_FIBER_TSAN
    if (tsan_ != nullptr) __tsan_destroy_fiber(tsan_);
    tsan_ = __tsan_create_fiber(0);
#endif
    context_.prepare(stack_.get(), size_, entry);
  }

  /// Requires: the caller holds an Unseen, and no more than one. Effects: suspends `from`, which must be running, and
  /// continues `to`. Returns once something switches back; nothing may where `for_good`.
  static void switch_to(Fiber& from, Fiber& to, [[maybe_unused]] bool for_good = false) noexcept {
#ifdef SHADOWMMU_FIBER_ASAN
    void* fake = nullptr;
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, to.bottom(), to.size());
#endif
#ifdef SHADOWMMU_FIBER_TSAN
    // A fiber that nobody resumes must not end with the sanitizer told to look away: the caller's Unseen has a gap
    // here.
    from.tsan_ = __tsan_get_current_fiber();
    void* const next = to.tsan_;
    Unseen::end();
    __tsan_switch_to_fiber(next, __tsan_switch_to_fiber_no_sync);
#endif
    Context::swap(from.context_, to.context_);
#ifdef SHADOWMMU_FIBER_TSAN
    Unseen::begin();
#endif
#ifdef SHADOWMMU_FIBER_ASAN
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
  }

  /// Effects: first words of an entry function; `from` is the fiber that switched here.
  static void entered([[maybe_unused]] Fiber& root) noexcept {
#ifdef SHADOWMMU_FIBER_ASAN
    const void* bottom = nullptr;
    std::size_t size = 0;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (root.asan_bottom_ == nullptr) {
      // The first fiber of a run is entered from the thread's own stack: the one moment that tells its bounds.
      root.asan_bottom_ = bottom;
      root.size_ = size;
    }
#endif
  }

 private:
  [[nodiscard]] const void* bottom() const noexcept { return stack_ ? stack_.get() : asan_bottom_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

#ifdef SHADOWMMU_FIBER_TSAN
  void* tsan_ = nullptr;
#endif
  Context context_;
  std::unique_ptr<std::byte[]> stack_;
  const void* asan_bottom_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace shadowmmu::sim
