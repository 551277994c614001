// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "explore/grace_scenarios.hpp"
#include "explore/machines.hpp"
#include "explore/named.hpp"

/// Small scenarios of the real Mmu, each with what must hold once its agents have ended: what the suite explores and
/// `./dev explore` runs by name.
namespace shadowmmu::test {

using Kind = FaultOutcome::Kind;

/// Effects: inside an agent, fails the run unless it holds.
inline void must(bool holds, const char* what) { sim::require(holds, what); }

template <class Machine, class... Args>
std::shared_ptr<Machine> machine(Args&&... args) {
  return std::make_shared<Machine>(std::forward<Args>(args)...);
}

/// Two faults at once, on the addresses given.
template <class Lock>
sim::Scenario fault_fault(std::uint64_t first, std::uint64_t second) {
  auto m = machine<Direct<Lock>>();
  return {{[=] { m->kind[0] = m->write(0, first); }, [=] { m->kind[1] = m->write(1, second); }}, [=] {
            const bool fine = m->kind[0] == Kind::Resume && m->kind[1] == Kind::Resume;
            const AuditReport r = m->mmu.audit();
            return fine && r.violations == 0 && r.leaves == (first >> 12 == second >> 12 ? 2U : 3U) &&
                   m->vcpu[0]->lookup(Gva{first}).present && m->vcpu[1]->lookup(Gva{second}).rights.write();
          }};
}

/// Whoever comes last: no entry from before the invalidation stands after it without a fault that saw it end.
template <class Lock>
sim::Scenario fault_invalidation() {
  auto m = machine<Direct<Lock>>();
  return {{[=] { m->kind[0] = m->write(0, 0x5000); },
           [=] {
             m->mmu.invalidate_begin(Gfn{5}, 1);
             m->mmu.invalidate_end();
           }},
          [=] {
            const bool present = m->vcpu[0]->lookup(Gva{0x5000}).present;
            return (m->kind[0] == Kind::Retry ? !present : m->kind[0] == Kind::Resume) && m->sound();
          }};
}

/// The Host moves the page's frame between the ends of an invalidation: who found the old frame does not map it.
template <class Lock>
sim::Scenario fault_moved() {
  auto m = machine<Direct<Lock>>();
  m->host.moving = Gfn{5};
  return {{[=] { m->kind[0] = m->write(0, 0x5000); },
           [=] {
             m->mmu.invalidate_begin(Gfn{5}, 1);
             m->host.move();
             m->mmu.invalidate_end();
           }},
          [=] {
            const EntryInfo e = m->vcpu[0]->lookup(Gva{0x5000});
            return (m->kind[0] == Kind::Retry || m->kind[0] == Kind::Resume) && m->right(e, 5 + 16) && m->sound();
          }};
}
/// The Host fills the frame that it answers a fault with: another CPU that finds the entry finds the frame filled.
template <class Lock>
sim::Scenario fault_filled() {
  auto m = machine<Direct<Lock>>();
  m->host.filling = Gfn{5};
  std::uint64_t* const leaf = m->leaf(0x5000);
  return {{[=] { m->kind[0] = m->write(0, 0x5000); },
           [=] {
             if (arch::Ept::present(M::load<Order::Acquire>(*leaf)))
               must(M::load<Order::Relaxed>(m->host.filled) != 0, "a frame is used before it is filled");
           }},
          [=] { return m->kind[0] == Kind::Resume && m->sound(); }};
}
/// Pages of nobody's become the Host's, who invalidates the MMIO entries: none is made of what was before and believed.
template <class Lock>
sim::Scenario mmio_backing() {
  auto m = machine<Direct<Lock>>();
  m->host.appearing = Gfn{5};
  return {{[=] { m->kind[0] = m->vcpu[0]->handle_fault(Gva{0x5000}, 0).kind; },
           [=] {
             m->host.appear();
             m->mmu.invalidate_mmio();
           }},
          [=] {
            return (m->kind[0] == Kind::Mmio || m->kind[0] == Kind::Resume || m->kind[0] == Kind::Retry) &&
                   m->vcpu[0]->enter() == EnterOutcome::Enter &&
                   m->vcpu[0]->handle_fault(Gva{0x5000}, pferr::kReserved).kind == Kind::Resume && m->sound();
          }};
}
/// A slot becomes ROM beside a fault that writes to a page of it that nobody has mapped.
template <class Lock>
sim::Scenario fault_read_only() {
  auto m = machine<Direct<Lock>>();
  return {{[=] { m->kind[0] = m->write(0, 0x5000); },
           [=] { must(m->mmu.set_slot_flags(m->slot, SlotFlags{.read_only = true}).ok(), "read-only"); }},
          [=] { return !m->vcpu[0]->lookup(Gva{0x5000}).rights.write() && m->sound(); }};
}

/// Nothing of the old generation is left but roots that their vCPUs have not let go of.
template <class Lock>
sim::Scenario fault_zap_all() {
  auto m = machine<Direct<Lock>>();
  return {{[=] { m->kind[0] = m->write(0, 0x5000); }, [=] { m->mmu.zap_all_fast(); }}, [=] {
            const bool fine = m->kind[0] == Kind::Resume || m->kind[0] == Kind::Retry;
            const bool sound = m->sound() && m->mmu.stats().pages_obsolete >= 4;
            return fine && sound && m->vcpu[0]->enter() == EnterOutcome::Enter && m->sound();
          }};
}

template <class Lock>
sim::Scenario fault_slot_removal() {
  auto m = machine<Direct<Lock>>();
  return {{[=] { m->kind[0] = m->write(0, 0x5000); }, [=] { must(m->mmu.remove_slot(m->slot).ok(), "removed"); }}, [=] {
            const Kind k = m->kind[0];
            return (k == Kind::Resume || k == Kind::Retry || k == Kind::Mmio) &&
                   m->vcpu[0]->enter() == EnterOutcome::Enter && !m->vcpu[0]->lookup(Gva{0x5000}).present &&
                   m->sound() && m->write(0, 0x5000) == Kind::Mmio;
          }};
}

/// Whatever a fault on a device's page leaves behind, it is not believed once the page is memory.
template <class Lock>
sim::Scenario mmio_new_slot() {
  auto m = machine<Direct<Lock>>();
  static_cast<void>(m->vcpu[0]->handle_fault(Gva{0x14'000}, 0));
  return {{[=] { m->kind[0] = m->vcpu[0]->handle_fault(Gva{0x14'000}, pferr::kReserved).kind; },
           [=] { must(m->mmu.add_slot(Gfn{16}, 16).ok(), "added"); }},
          [=] {
            const Kind k = m->kind[0];
            return (k == Kind::Resume || k == Kind::Retry || k == Kind::Mmio) &&
                   m->vcpu[0]->enter() == EnterOutcome::Enter &&
                   m->vcpu[0]->handle_fault(Gva{0x14'000}, pferr::kReserved).kind == Kind::Resume && m->sound();
          }};
}

/// A slot appears while another's page is mapped: the memslots that the fault looked at are freed, and not used then.
template <class Lock>
sim::Scenario shadow_fault_new_slot() {
  auto m = machine<Shadow<Lock>>();
  return {{[=] { m->kind[0] = m->write(0, 0x5000); }, [=] { must(m->mmu.add_slot(Gfn{40}, 8).ok(), "added"); }}, [=] {
            return (m->kind[0] == Kind::Resume || m->kind[0] == Kind::Retry) && m->host.untouched() && m->sound();
          }};
}

/// A write fault by a table in read-only memory, which keeps its bits, while that memory becomes writable: no leaf may
/// be written whose entry could have its D bit now.
template <class Lock>
sim::Scenario fault_tables_writable() {
  auto m = machine<Shadow<Lock>>();
  m->table(3)[1] = 40 << 12 | Shadow<Lock>::kPage;
  m->table(40)[0] = 20 << 12 | 0x27;
  const SlotId rom = m->mmu.add_slot(Gfn{40}, 4, SlotFlags{true}).value();
  for (auto& v : m->vcpu) REQUIRE(v->enter() == EnterOutcome::Enter);
  return {{[=] { m->kind[0] = m->write(0, 0x20'0000); },
           [=] { must(m->mmu.set_slot_flags(rom, {false}).ok(), "the flags changed"); }},
          [=] { return (m->kind[0] == Kind::Resume || m->kind[0] == Kind::Retry) && m->sound(); }};
}

/// A reader that looks while a root and the tables below it are made finds the page or nothing, and reads no table from
/// before it was filled.
template <class Lock>
sim::Scenario walk_new_path() {
  auto m = machine<Direct<Lock>>();
  m->mmu.zap_all_fast();
  return {{[=] {
             must(m->vcpu[0]->enter() == EnterOutcome::Enter, "entered");
             m->kind[0] = m->write(0, 0x1000);
           },
           [=] {
             for (int i = 0; i < 2; ++i)
               must(m->right(m->reader->lookup(*m->vcpu[0], Gva{0x1000}), 1), "a reader found another frame");
           }},
          [=] { return m->kind[0] == Kind::Resume && m->sound(); }};
}

/// A reader that looks while everything is zapped and freed finds the page or nothing; nothing, once zapping is over.
template <class Lock>
sim::Scenario walk_zap_free() {
  auto m = machine<Direct<Lock>>();
  return {{[=] {
             const bool over = M::load<Order::Acquire>(m->flag) != 0;
             const EntryInfo e = m->reader->lookup(*m->vcpu[0], Gva{0x1000});
             must(m->right(e, 1), "a reader went through a freed table");
             must(!over || !e.present, "a reader found a root that was zapped before");
           },
           [=] {
             m->mmu.obsolete_all();
             M::store<Order::Release>(m->flag, 1);
             m->mmu.zap_all_fast();
             static_cast<void>(m->mmu.shrink(16));
           }},
          [=] { return m->sound(); }};
}
/// The same with two looks in nested sections: the inner one's end does not end the outer one.
template <class Lock>
sim::Scenario nested_walk_zap_free() {
  using Reader = typename Direct<Lock>::Mmu::Reader;
  auto m = machine<Direct<Lock>>();
  return {{[=] {
             const typename Reader::Section outer(*m->reader);
             static_cast<void>(m->reader->lookup(*m->vcpu[0], Gva{0x1000}));
             const EntryInfo e = m->reader->lookup(*m->vcpu[0], Gva{0x1000});
             must(m->right(e, 1), "a reader went through a freed table");
           },
           [=] {
             m->mmu.zap_all_fast();
             static_cast<void>(m->mmu.shrink(16));
           }},
          [=] { return m->sound(); }};
}

/// Two lots wait: the second begins its grace period only when that of the first has passed.
template <class Lock>
sim::Scenario walk_zap_twice() {
  auto m = machine<Direct<Lock>>();
  return {{[=] {
             const EntryInfo e = m->reader->lookup(*m->vcpu[0], Gva{0x1000});
             must(m->right(e, 1), "a reader went through a freed table");
           },
           [=] {
             for (int round = 0; round < 2; ++round) {
               m->mmu.zap_all_fast();
               must(m->vcpu[0]->enter() == EnterOutcome::Enter && m->vcpu[1]->enter() == EnterOutcome::Enter,
                    "entered");
               must(m->write(0, 0x1000) == Kind::Resume, "mapped");
             }
           }},
          [=] { return m->sound() && m->mmu.stats().reader_waits == 0; }};
}

/// A vCPU's last reference to a root that has been zapped goes while another thread looks at it.
template <class Lock>
sim::Scenario walk_last_root() {
  auto m = machine<Direct<Lock>>();
  return {{[=] {
             const EntryInfo e = m->reader->lookup(*m->vcpu[0], Gva{0x1000});
             must(m->right(e, 1), "a reader went through a freed root");
           },
           [=] {
             m->mmu.obsolete_all();
             static_cast<void>(m->mmu.reclaim_obsolete(16));  // the root, in use, becomes invalid
             must(m->vcpu[0]->enter() == EnterOutcome::Enter && m->vcpu[1]->enter() == EnterOutcome::Enter, "entered");
             static_cast<void>(m->mmu.shrink(1));
           }},
          [=] { return m->sound(); }};
}
/// The last reference goes while a zap of everything is under way: the root is freed once, after both.
template <class Lock>
sim::Scenario last_root_zap() {
  auto m = machine<Direct<Lock>>();
  m->mmu.obsolete_all();
  return {{[=] { must(m->vcpu[0]->enter() == EnterOutcome::Enter, "entered"); }, [=] { m->mmu.zap_all_fast(); }}, [=] {
            const bool entered =
                m->vcpu[0]->enter() == EnterOutcome::Enter && m->vcpu[1]->enter() == EnterOutcome::Enter;
            const AuditReport r = m->mmu.audit();
            return entered && r.violations == 0 && r.invalid == 0;
          }};
}

/// A split goes on beside a reader: at each level it finds the right frame or a link that is not there yet; never a
/// linked table that is not filled.
template <class Lock>
sim::Scenario walk_split() {
  auto m = machine<Direct<Lock>>(true);
  return {{[=] {
             const EntryInfo e = m->reader->lookup(*m->vcpu[0], Gva{0x1f'f000});
             must(m->right(e, 0x1ff), "a reader found another frame");
             must(e.present || e.level > Level{1}, "a split table was linked before it was filled");
           },
           [=] { must(m->mmu.split_large_pages(m->slot).ok(), "split"); }},
          [=] { return m->sound() && m->vcpu[0]->lookup(Gva{0x1f'f000}).present; }};
}

/// A write to a logged page whose W went, with the lock or without, beside a fetch: what may be written is in the log.
template <class Lock>
sim::Scenario fast_fault_fetch() {
  auto m = machine<Direct<Lock>>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  return {{[=] { m->kind[0] = m->write(0, 0x1000, true); },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
           }},
          [=] { return m->kind[0] == Kind::Resume && m->logged(1) && m->sound(); }};
}
/// The same where the page was written before, so that the fetch has a bit to take.
template <class Lock>
sim::Scenario fast_fault_fetch_again() {
  auto m = machine<Direct<Lock>>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  REQUIRE(m->write(0, 0x1000, true) == Kind::Resume);
  return {{[=] {
             for (int n = 0; n < 2; ++n) m->kind[0] = m->write(0, 0x1000, true);
           },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok() && (word & 2) != 0, "fetched");
           }},
          [=] { return m->kind[0] == Kind::Resume && m->logged(1) && m->sound(); }};
}
/// A page is mapped by a write while the log is fetched.
template <class Lock>
sim::Scenario fault_fetch() {
  auto m = machine<Direct<Lock>>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  return {{[=] { m->kind[0] = m->write(0, 0x5000); },
           [=] {
             std::uint64_t word = 0;
             for (int n = 0; n < 2; ++n) must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
           }},
          [=] { return m->kind[0] == Kind::Resume && m->logged(5) && m->logged(1) && m->sound(); }};
}
/// The same where the page was written before and lost its mapping: the mark is there already.
template <class Lock>
sim::Scenario fault_fetch_marked() {
  auto m = machine<Direct<Lock>>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  REQUIRE(m->write(0, 0x5000) == Kind::Resume);
  m->mmu.unmap(Gfn{5});
  return {{[=] { m->kind[0] = m->write(0, 0x5000); },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
           }},
          [=] { return m->kind[0] == Kind::Resume && m->logged(5) && m->sound(); }};
}
/// A guest's write by a translation that its TLB still holds, beside `ends`, which takes the entry or its W away, and a
/// migration that copies what its fetch names: the write is in the copy, or named by the next fetch.
template <class Lock>
sim::Scenario fetch_stale_tlb(void (*ends)(Direct<Lock>&), bool hardware_dirty = true) {
  struct Data {
    std::uint64_t page = 0, copy = 0;
  };
  typename Direct<Lock>::Mmu::Caps caps;
  caps.accessed_dirty = hardware_dirty;
  auto m = machine<Direct<Lock>>(false, caps, 1U);  // the hardware's is the only vCPU
  auto d = std::make_shared<Data>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  REQUIRE(m->write(0, 0x1000, true) == Kind::Resume);
  std::uint64_t* const leaf = m->leaf(0x1000);
  return {{[=] {
             m->host.access_begins(0);
             if (arch::Ept::writable(M::load<Order::Acquire>(*leaf))) M::store<Order::Relaxed>(d->page, 1);
             m->host.access_ends(0);
           },
           [=] { ends(*m); },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
             if ((word & 2) != 0) d->copy = M::load<Order::Relaxed>(d->page);
           }},
          [=] {
            std::uint64_t word = 0;
            REQUIRE(m->mmu.read_dirty_log(m->slot, 0, 1, &word).ok());
            return d->copy == d->page || (word & 2) != 0;
          }};
}
/// As fetch_stale_tlb, beside a fault that replaces the entry, since the guest's own says now that the page is
/// read-only.
template <class Lock>
sim::Scenario fetch_stale_tlb_fault() {
  struct Data {
    std::uint64_t page = 0, copy = 0;
  };
  auto m = machine<Shadow<Lock>>();
  auto d = std::make_shared<Data>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  REQUIRE(m->write(0, 0x1000) == Kind::Resume);
  REQUIRE(m->write(0, 0xa000) == Kind::Resume);  // the table is the guest's to write
  m->table(4)[1] = 17 << 12 | 0x65;
  std::uint64_t* const leaf = m->leaf(0x1000);
  return {{[=] {
             m->host.access_begins(1);
             if (arch::X86_64::writable(M::load<Order::Acquire>(*leaf))) M::store<Order::Relaxed>(d->page, 1);
             m->host.access_ends(1);
           },
           [=] { static_cast<void>(m->vcpu[0]->handle_fault(Gva{0x1000}, pferr::kUser)); },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
             if ((word >> 17 & 1) != 0) d->copy = M::load<Order::Relaxed>(d->page);
           }},
          [=] {
            std::uint64_t word = 0;
            REQUIRE(m->mmu.read_dirty_log(m->slot, 0, 1, &word).ok());
            return d->copy == d->page || (word >> 17 & 1) != 0;
          }};
}
/// A page that was written gets another right by a fault that writes nothing, while the log is fetched: what may be
/// written afterwards is in the log.
template <class Lock>
sim::Scenario fetch_fault_execute() {
  auto m = machine<Shadow<Lock>>();
  m->table(4)[2] |= std::uint64_t{1} << 63;
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  REQUIRE(m->write(0, 0x2000) == Kind::Resume);
  REQUIRE(m->write(0, 0xa000) == Kind::Resume);  // the table is the guest's to write
  m->table(4)[2] &= ~(std::uint64_t{1} << 63);
  return {{[=] { m->kind[0] = m->vcpu[0]->handle_fault(Gva{0x2000}, pferr::kFetch | pferr::kUser).kind; },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok() && (word >> 18 & 1) != 0, "fetched");
           }},
          [=] {
            std::uint64_t word = 0;
            REQUIRE(m->mmu.read_dirty_log(m->slot, 0, 1, &word).ok());
            const EntryInfo e = m->vcpu[0]->lookup(Gva{0x2000});
            return (m->kind[0] == Kind::Resume || m->kind[0] == Kind::Retry) &&
                   (!e.rights.write() || (word >> 18 & 1) != 0) && m->sound();
          }};
}
/// A device's write to a page whose mark is set already, beside a migration: it is in the copy, or named again.
template <class Lock>
sim::Scenario fetch_device_write() {
  struct Data {
    std::uint64_t page = 0, copy = 0;
  };
  auto m = machine<Direct<Lock>>();
  auto d = std::make_shared<Data>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  m->mmu.guest_wrote(Gpa{5 << 12}, 8);
  return {{[=] {
             M::store<Order::Relaxed>(d->page, 1);
             m->mmu.guest_wrote(Gpa{5 << 12}, 8);
           },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok() && (word >> 5 & 1) != 0, "fetched");
             d->copy = M::load<Order::Relaxed>(d->page);
           }},
          [=] {
            std::uint64_t word = 0;
            REQUIRE(m->mmu.read_dirty_log(m->slot, 0, 1, &word).ok());
            return d->copy == d->page || (word >> 5 & 1) != 0;
          }};
}
/// A log of two GiB for which frames end halfway: a walk that sets A marks the table in the half that was made, and not
/// once that is freed.
template <class Lock>
sim::Scenario translate_failed_log() {
  auto m = machine<Shadow<Lock>>();
  REQUIRE(m->mmu.resize_slot(m->slot, Gfn{0}, (1U << 18) + 32).ok());
  m->table(4)[2] &= ~std::uint64_t{0x20};
  return {{[=] { must(m->reader->translate(*m->vcpu[0], Gva{0x2000}, {}).ok(), "translated"); },
           [=] {
             m->host.frames_left = 9;  // one and eight for the first GiB
             must(!m->mmu.start_dirty_log(m->slot).ok(), "a log without frames starts");
           }},
          [=] { return m->host.untouched() && m->sound(); }};
}
/// A log is fetched while everything is zapped and freed: nobody writes what was freed.
template <class Lock>
sim::Scenario fetch_zap_free() {
  auto m = machine<Direct<Lock>>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  REQUIRE(m->write(0, 0x1000, true) == Kind::Resume);
  return {{[=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
           },
           [=] {
             m->mmu.zap_all_fast();
             static_cast<void>(m->mmu.shrink(16));
           }},
          [=] { return m->sound() && m->host.untouched(); }};
}
/// The fast fault beside whoever takes the page away for good.
template <class Lock>
sim::Scenario fast_fault_invalidation() {
  auto m = machine<Direct<Lock>>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  return {{[=] { m->kind[0] = m->write(0, 0x1000, true); }, [=] { m->mmu.unmap(Gfn{1}); }}, [=] {
            // A fault after the unmapping is another one: it maps the page anew.
            return (m->kind[0] == Kind::Resume || m->kind[0] == Kind::Retry) && m->logged(1) && m->sound();
          }};
}
/// A large page, not writable since an earlier log, is written while a log starts: never without a fault a small page.
template <class Lock>
sim::Scenario fast_fault_log_start() {
  auto m = machine<Direct<Lock>>(true);
  const auto protect = [=] { must(m->mmu.start_dirty_log(m->slot).ok(), "the log started"); };
  protect();
  REQUIRE(m->mmu.stop_dirty_log(m->slot).ok());
  return {{[=] { m->kind[0] = m->write(0, 0x1000, true); }, protect}, [=] {
            const EntryInfo e = m->vcpu[0]->lookup(Gva{0x1000});
            return (!e.rights.write() || e.level == Level{1}) && m->logged(1) && m->sound();
          }};
}
/// A dead frame is read-only: a slot that becomes ROM beside a fast fault.
template <class Lock>
sim::Scenario fast_fault_read_only() {
  auto m = machine<Direct<Lock>>();
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  return {{[=] { m->kind[0] = m->write(0, 0x1000, true); },
           [=] { must(m->mmu.set_slot_flags(m->slot, SlotFlags{.read_only = true}).ok(), "read-only"); }},
          [=] { return !m->vcpu[0]->lookup(Gva{0x1000}).rights.write() && m->sound(); }};
}

/// A log is fetched while rmap chains change: one mapping of a page goes, not written (its D would mark the page), and
/// its descriptor serves another page's chain.
template <class Lock>
sim::Scenario fetch_chain() {
  auto m = machine<Shadow<Lock>>();
  REQUIRE(m->write(0, 0x0000) == Kind::Resume);
  REQUIRE(m->write(0, 0x8000) == Kind::Resume);
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  for (const std::uint64_t a : {0x0000U, 0x1000U}) REQUIRE(m->write(0, a) == Kind::Resume);
  return {{[=] {
             m->table(4)[8] = 0;
             m->mmu.guest_wrote(Gpa{4 << 12 | 8 * 8}, 8);
             m->kind[0] = m->write(0, 0x9000);
           },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
           }},
          [=] {
            return m->kind[0] == Kind::Resume && m->logged(0, 16) && m->logged(1, 17) && m->logged(9, 17) && m->sound();
          }};
}

/// The same where the chain is changed in its place: one of three mappings goes, and the last moves where it stood.
template <class Lock>
sim::Scenario fetch_chain_in_place() {
  auto m = machine<Shadow<Lock>>();
  m->table(4)[12] = 16 << 12 | 0x67;
  for (const std::uint64_t a : {0x0000U, 0x8000U, 0xc000U}) REQUIRE(m->write(0, a) == Kind::Resume);
  REQUIRE(m->mmu.start_dirty_log(m->slot).ok());
  for (const std::uint64_t a : {0x0000U, 0xc000U}) REQUIRE(m->write(0, a) == Kind::Resume);
  return {{[=] {
             m->table(4)[8] = 0;
             m->mmu.guest_wrote(Gpa{4 << 12 | 8 * 8}, 8);
           },
           [=] {
             std::uint64_t word = 0;
             must(m->reader->fetch_dirty_log(m->slot, 0, 1, &word).ok(), "fetched");
           }},
          [=] { return m->logged(0, 16) && m->logged(12, 16) && m->sound(); }};
}

/// A leaf table is let go unsync by a write while another vCPU makes it a directory's frame, with a large page in it.
template <class Lock>
sim::Scenario unsync_track() {
  auto m = machine<Shadow<Lock>>();
  m->table(5)[0] = 6 << 12 | 0x67;
  m->table(6)[0] = 4 << 12 | 0x67;
  m->table(6)[1] = 7 << 12 | 0x67;
  m->table(4)[1] = m->table(7)[0] = 0xe7;
  REQUIRE(m->vcpu[1]->set_cr3(5 << 12) == ControlOutcome::Done);
  REQUIRE(m->vcpu[1]->enter() == EnterOutcome::Enter);
  REQUIRE(m->write(1, 0x4000'0000) == Kind::Resume);
  static_cast<void>(m->vcpu[0]->handle_fault(Gva{0xa000}, pferr::kUser));
  return {{[=] { m->kind[0] = m->write(0, 0xa000); }, [=] { m->kind[1] = m->write(1, 0x20'0000); }}, [=] {
            const Kind k = m->kind[0];
            return (k == Kind::Resume || k == Kind::Retry || k == Kind::Emulate) &&
                   (m->kind[1] == Kind::Resume || m->kind[1] == Kind::Retry) && m->sound();
          }};
}
/// A guest edits its leaf table through an unsync page and invalidates the address, beside a sync on another CPU:
/// nobody is left with the old translation.
template <class Lock>
sim::Scenario sync_guest_write() {
  auto m = machine<Shadow<Lock>>();
  REQUIRE(m->write(0, 0xa000) == Kind::Resume);  // the table is unsync
  return {{[=] {
             const bool stored = m->guest_store(0, 1, std::uint64_t{23} << 12 | 0x67);
             if (!stored) return;
             m->vcpu[0]->invlpg(Gva{0x1000});
             const EntryInfo e = m->vcpu[0]->lookup(Gva{0x1000});
             must(!e.present || e.pfn == Pfn{(PoisonHost::kGuestBase >> 12) + 23}, "an invalidated entry is there");
           },
           [=] {
             m->vcpu[1]->flush();
             must(m->vcpu[1]->enter() == EnterOutcome::Enter, "entered");
           }},
          [=] { return m->sound(); }};
}
/// A vCPU clears EFER.NXE, then loads a CR3 whose tables have NX, which that makes reserved: another thread that
/// translates for it never takes the new CR3 for one of before.
template <class Lock>
sim::Scenario translate_registers() {
  auto m = machine<Shadow<Lock>>();
  for (std::uint64_t t = 5; t < 8; ++t) m->table(t)[0] = (t + 1) << 12 | 0x67;
  m->table(8)[1] = std::uint64_t{1} << 63 | 24 << 12 | 0x67;
  return {{[=] {
             const Controls c{cr0::kPe | cr0::kPg | cr0::kWp, cr4::kPae, efer::kLme | efer::kLma};
             must(m->vcpu[0]->set_control(c) == ControlOutcome::Done, "NXE is clear");
             must(m->vcpu[0]->set_cr3(5 << 12) == ControlOutcome::Done, "CR3 is loaded");
           },
           [=] {
             const auto t = m->reader->translate(*m->vcpu[0], Gva{0x1000}, {});
             must(!t.ok() || t.to.gpa == Gpa{17 << 12}, "registers that the vCPU never had at once");
           }},
          [=] { return m->sound(); }};
}
/// The same where two registers change at once: with WP and NXE as they were, or both clear, a page that is read-only
/// and has NX is not written by the supervisor.
template <class Lock>
sim::Scenario translate_two_registers() {
  auto m = machine<Shadow<Lock>>();
  m->table(4)[2] = std::uint64_t{1} << 63 | 18 << 12 | 0x65;
  return {{[=] {
             const Controls c{cr0::kPe | cr0::kPg, cr4::kPae, efer::kLme | efer::kLma};
             must(m->vcpu[0]->set_control(c) == ControlOutcome::Done, "WP and NXE are clear");
           },
           [=] {
             const auto t = m->reader->translate(*m->vcpu[0], Gva{0x2000}, {.write = true});
             must(!t.ok(), "registers that the vCPU never had at once");
           }},
          [=] { return m->sound(); }};
}
/// A reader asks for the age of a page that nobody has used since, while everything is zapped and freed.
template <class Lock>
sim::Scenario age_zap_free() {
  auto m = machine<Direct<Lock>>();
  static_cast<void>(m->mmu.clear_young(Gfn{1}, 1));
  REQUIRE(!m->mmu.test_young(Gfn{1}, 1));
  return {{[=] { must(!m->reader->test_young(Gfn{1}, 1), "an old page is young: that was a freed table"); },
           [=] {
             m->mmu.zap_all_fast();
             static_cast<void>(m->mmu.shrink(16));
           }},
          [=] { return m->sound() && m->host.untouched(); }};
}
/// The same while the page's path is made anew, or the first page of a slot is mapped.
template <class Lock>
sim::Scenario age_new_path() {
  auto m = machine<Direct<Lock>>();
  m->mmu.zap_all_fast();
  return {{[=] {
             must(m->vcpu[0]->enter() == EnterOutcome::Enter, "entered");
             m->kind[0] = m->write(0, 0x1000);
           },
           [=] { static_cast<void>(m->reader->test_young(Gfn{1}, 1)); }},
          [=] { return m->kind[0] == Kind::Resume && m->sound(); }};
}
template <class Lock>
sim::Scenario age_new_slot() {
  auto m = machine<Direct<Lock>>();
  for (const std::uint64_t g : {16U, 24U}) REQUIRE(m->mmu.add_slot(Gfn{g}, 8).ok());
  return {
      {[=] {
         must(m->write(0, 0x11'000) == Kind::Resume, "mapped");
         m->kind[0] = m->write(0, 0x19'000);  // by a frame that was filled since
       },
       [=] { must(!m->reader->test_young(Gfn{26}, 1), "a page that nobody used is young: that was a stale head"); }},
      [=] { return m->kind[0] == Kind::Resume && m->sound(); }};
}
/// A page that was used is young all the time that its large page is split.
template <class Lock>
sim::Scenario age_split() {
  auto m = machine<Direct<Lock>>(true);
  REQUIRE(m->mmu.test_young(Gfn{5}, 1));
  return {{[=] { must(m->mmu.split_large_pages(m->slot).ok(), "split"); },
           [=] { must(m->reader->test_young(Gfn{5}, 1), "a young page is old while it is split"); }},
          [=] { return m->mmu.test_young(Gfn{5}, 1) && m->sound(); }};
}
/// A vCPU closes its window on a table; another that enters the guest then does not write the table unseen.
template <class Lock>
sim::Scenario window_enter() {
  auto m = machine<Shadow<Lock>>();
  const FaultOutcome o = m->vcpu[0]->handle_fault(Gva{0xb000}, pferr::kWrite | pferr::kUser, CpuMode{3, false});
  REQUIRE(o.kind == Kind::Emulate);
  REQUIRE(m->vcpu[0]->begin_write_window(o).ok());
  REQUIRE(m->write(0, 0xb000) == Kind::Resume);
  std::uint64_t* const leaf = m->leaf(0xb000);
  REQUIRE(arch::X86_64::writable(*leaf));
  return {{[=] { m->vcpu[0]->end_write_windows(); },
           [=] {
             if (m->vcpu[1]->enter() != EnterOutcome::Enter) return;
             m->host.access_begins(1);
             must(!arch::X86_64::writable(M::load<Order::Relaxed>(*leaf)), "a table is written after its window");
             m->host.access_ends(1);
           }},
          [=] { return m->sound(); }};
}
/// Pages wait for a reader that stays until so many were zapped; the writer never waits before the bound.
template <class Lock>
sim::Scenario reader_below_bound() {
  using Reader = typename Direct<Lock>::Mmu::Reader;
  auto m = machine<Direct<Lock>>();
  return {{[=] {
             const typename Reader::Section section(*m->reader);
             while (M::load<Order::Acquire>(m->flag) == 0) M::pause();
           },
           [=] {
             m->mmu.zap_all_fast();
             M::store<Order::Release>(m->flag, 1);
           }},
          [=] {
            const Counters c = m->mmu.stats();
            return m->sound() && c.reader_waits == 0 && c.pages_deferred_highest <= FewDeferred::kDeferredPages;
          }};
}

// Defined here for the one unit that includes this file: what the scenarios instantiate takes long to compile.
std::vector<Named> scenarios() {
  using R = ExploredReaders;
  using S = ExploredSpin;
  return {
      {"fault x fault, one entry", [] { return fault_fault<S>(0x5000, 0x5008); }},
      {"fault x fault, neighbours", [] { return fault_fault<S>(0x5000, 0x6000); }},
      {"fault x host invalidation", fault_invalidation<R>},
      {"fault x frame that moves", fault_moved<R>},
      {"fault x frame that is filled", fault_filled<R>},
      {"MMIO fault x memory that appears", mmio_backing<R>},
      {"fault x slot becomes read-only", fault_read_only<R>},
      {"fault x zap_all_fast", fault_zap_all<R>},
      {"fault x zap_all_fast, no readers", fault_zap_all<S>},
      {"fault x slot removal", fault_slot_removal<R>},
      {"fault x slot removal, no readers", fault_slot_removal<S>},
      {"MMIO fault x a slot that appears", mmio_new_slot<S>},
      {"shadow fault x a slot that appears", shadow_fault_new_slot<S>},
      {"fault x tables that may be written", fault_tables_writable<R>, 2, 2, 2},
      {"walk x new path", walk_new_path<R>},
      {"walk x zap x free", walk_zap_free<R>},
      {"walk x zap x free, by flush", walk_zap_free<ExploredFlush>},
      {"nested walk x zap x free", nested_walk_zap_free<R>},
      {"walk x zap twice", walk_zap_twice<R>},
      {"walk x last root reference", walk_last_root<R>},
      {"last root reference x zap", last_root_zap<R>},
      {"walk x large-page split", walk_split<R>},
      {"fast fault x write-protect", fast_fault_fetch_again<R>},
      {"fast fault x fetch", fast_fault_fetch<R>},
      {"fast fault x host invalidation", fast_fault_invalidation<R>},
      {"fast fault x start of a log", fast_fault_log_start<R>},
      {"fast fault x slot becomes read-only", fast_fault_read_only<R>},
      {"dirty fetch x fault", fault_fetch<R>},
      {"dirty fetch x fault, marked", fault_fetch_marked<R>},
      {"dirty fetch x invalidation x guest write",
       [] { return fetch_stale_tlb<R>([](Direct<R>& m) { m.mmu.invalidate_begin(Gfn{1}, 1); }); }},
      {"dirty fetch x ageing x guest write",
       [] { return fetch_stale_tlb<R>([](Direct<R>& m) { m.mmu.clear_young(Gfn{1}, 1); }, false); }, 1},
      {"dirty fetch x fault x guest write", fetch_stale_tlb_fault<R>, 1},
      {"dirty fetch x fault that adds a right", fetch_fault_execute<R>},
      {"dirty fetch x device write", fetch_device_write<R>},
      {"translate x log that cannot start", translate_failed_log<R>},
      {"dirty fetch x zap x free", fetch_zap_free<R>},
      {"dirty fetch x zap x free, by flush", fetch_zap_free<ExploredFlush>},
      {"dirty fetch x rmap chain", fetch_chain<R>},
      {"dirty fetch x rmap chain in place", fetch_chain_in_place<R>},
      {"unsync x write-track", unsync_track<R>},
      {"sync x guest write", sync_guest_write<R>},
      {"translate x change of registers", translate_registers<R>},
      {"translate x change of two registers", translate_two_registers<R>},
      {"age x zap x free", age_zap_free<R>},
      {"age x new path", age_new_path<R>},
      {"age x first page of a slot", age_new_slot<R>},
      {"age x large-page split", age_split<R>, 1, 1},
      {"window's end x enter", window_enter<R>},
      {"reader below the bound", reader_below_bound<R>},
      {"sections x grace period", sections_beside_a_grace_period, 2, 2, 2},
  };
}

}  // namespace shadowmmu::test
