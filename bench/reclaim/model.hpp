// SPDX-License-Identifier: BSL-1.0
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "micro/clock.hpp"
#include "reclaim/figures.hpp"
#include "reclaim/tree.hpp"
#include "shadowmmu/concepts/reclaim.hpp"
#include "shadowmmu/config.hpp"

/// The cache of shadow tables without an MMU: the same policies, told the same, over a tree of plain structures. For
/// what needs the future, and as a second opinion: it must agree with the Mmu on every eviction.
namespace shadowmmu::bench {

/// What a policy that knows the future may look at.
struct Foresight {
  const Tree* tree = nullptr;
  std::uint64_t now = 0;  ///< the step under way
};

/// Returns: what the Mmu calls each table of the tree towards its policy. `role`: by level, the low half of these
/// names.
[[nodiscard]] inline std::vector<std::uint64_t> identities(const Tree& tree, const std::array<std::uint64_t, 5>& role) {
  std::vector<std::uint64_t> names(tree.tables.size());
  for (std::size_t t = 0; t < names.size(); ++t) names[t] = std::uint64_t{t} << 32U | role[tree.tables[t].level];
  if (tree.arch == ArchKind::X86_64) return names;
  for (const Tree::Step& s : tree.steps) {  // a direct page is called by the first frame that it maps
    std::uint32_t t = s.leaf;
    for (unsigned level = 1; t != Tree::kNone; ++level, t = tree.tables[t].parent)
      names[t] = (s.address >> 12U >> 9U * level << 9U * level) << 32U | role[level];
  }
  return names;
}

template <class Policy>
class Model {
  using State = typename Policy::PageState;
  struct Page;
  struct Link {
    Page* parent;
    std::uint16_t index;
  };
  struct Page : State {
    explicit Page(std::uint32_t t, std::uint8_t l) : table(t), level(l) {
      if (level > 1) directory = std::make_unique<Directory>();
    }
    struct Directory {
      std::array<Page*, 512> child{};
      std::array<bool, 512> accessed{};
    };
    std::uint32_t table;
    std::uint8_t level;
    bool walked = false;
    bool reachable = false;  ///< from a root
    std::uint16_t live = 0;
    std::uint32_t roots = 0;
    int own_children = 0;
    std::array<std::uint64_t, 8> entries{};  ///< of a leaf table
    std::unique_ptr<Directory> directory;
    std::vector<Link> parents;
  };

 public:
  /// `identity`: what tables are called towards the policy, where it is not their number.
  Model(const Tree& tree, std::uint32_t limit, EvictionPlan plan, const std::vector<std::uint64_t>* identity = nullptr)
      : tree_(tree),
        limit_(limit),
        plan_(plan),
        identity_(identity),
        pages_(tree.tables.size()),
        samples_(tree.touches),
        future_{&tree, 0} {
    if constexpr (requires { policy_.attach(future_); }) policy_.attach(future_);
  }

  /// Effects: all steps. `evicted(step, number)` is told of each page that goes, by the number of its creation.
  template <class Evicted>
  [[nodiscard]] Figures run(Evicted&& evicted) {
    const double began = now_ns();
    on_evict_ = [](void* f, std::uint64_t step, std::uint64_t number) {
      (*static_cast<std::remove_reference_t<Evicted>*>(f))(step, number);
    };
    on_evict_with_ = &evicted;
    for (; future_.now < tree_.steps.size(); ++future_.now) {
      const Tree::Step& step = tree_.steps[future_.now];
      if (step.leaf == Tree::kNone)
        end_space(step.root);
      else
        touch(step);
    }
    f_.refaults = f_.faults - tree_.least_faults;
    f_.leaf_refills = fills_ - tree_.pages;
    f_.link_refills = links_ - tree_.links;
    f_.seconds = (now_ns() - began) / 1e9;
    std::move(samples_).finish(f_);
    return f_;
  }
  [[nodiscard]] Figures run() {
    return run([](std::uint64_t, std::uint64_t) {});
  }

 private:
  struct View {
    Model& model;
    [[nodiscard]] bool pinned(State& s) const noexcept { return page(s).roots != 0 || page(s).walked; }
    [[nodiscard]] unsigned live(State& s) const noexcept { return page(s).live; }
    [[nodiscard]] Level level(State& s) const noexcept { return Level{page(s).level}; }
    [[nodiscard]] bool test_and_clear_accessed(State& s) const noexcept {
      model.f_.a_bit_reads += 1;
      bool seen = false;
      for (const Link& l : page(s).parents) {
        seen = seen || l.parent->directory->accessed[l.index];
        l.parent->directory->accessed[l.index] = false;
      }
      return seen;
    }
    [[nodiscard]] static Page& page(State& s) noexcept { return static_cast<Page&>(s); }
  };

  void touch(const Tree::Step& step) {
    if (step.root != root_) load_root(step.root);
    if (!walk(step)) {
      f_.faults += 1;
      fault(step);
      static_cast<void>(walk(step));
    }
    if (++touches_ % Samples::kEvery == 0) samples_.add(mapped_);
  }
  /// The CPU's walk: A bits are set as far as it comes. Returns: whether the entry is there.
  [[nodiscard]] bool walk(const Tree::Step& step) noexcept {
    Page* p = pages_[root_].get();
    for (unsigned shift = 39; shift > 12; shift -= 9) {
      const std::size_t i = step.address >> shift & 511U;
      Page* child = p->directory->child[i];
      if (child == nullptr) return false;
      p->directory->accessed[i] = true;
      p = child;
    }
    return (p->entries[step.entry() / 64] >> step.entry() % 64 & 1U) != 0;
  }
  void fault(const Tree::Step& step) {
    make_room_ahead();
    const bool tight = limit_ < used_ + plan_.low;
    std::uint32_t tables[4] = {step.leaf, tree_.tables[step.leaf].parent, 0, root_};
    tables[2] = tree_.tables[tables[1]].parent;
    Page* p = pages_[root_].get();
    for (unsigned level = 4; level > 1; --level) {
      if (tight) p->walked = true;
      const auto i = static_cast<std::uint16_t>(step.address >> (12U + 9U * (level - 1)) & 511U);
      Page* child = p->directory->child[i];
      if (child == nullptr) {
        child = get(tables[level - 2]);
        link(*p, i, *child);
      }
      p = child;
    }
    for (const std::uint32_t t : tables)
      if (pages_[t] != nullptr) pages_[t]->walked = false;
    std::uint64_t& word = p->entries[step.entry() / 64];
    const std::uint64_t bit = std::uint64_t{1} << step.entry() % 64;
    if ((word & bit) != 0) return;
    word |= bit;
    p->live += 1;
    fills_ += 1;
    mapped_ += 1;
    entry(*p);
  }
  void load_root(std::uint32_t root) {
    if (root_ != Tree::kNone) pages_[root_]->roots -= 1;
    root_ = root;
    make_room_ahead();
    Page* p = get(root);
    p->roots += 1;
    if constexpr (wants(Policy::kHooks, Hook::RootLoad)) policy_.on_root_load(*p);
  }
  void end_space(std::uint32_t root) {
    Page* p = pages_[root].get();
    if (p == nullptr) return;
    for (std::uint16_t i = 0; i < 256; ++i)
      if (p->directory->child[i] != nullptr) unlink(*p, i);
  }

  [[nodiscard]] Page* get(std::uint32_t table) {
    if (pages_[table] != nullptr) return pages_[table].get();
    if (used_ >= limit_ && plan_.when == EvictionPlan::When::DuringWalk) evict(plan_.wanted(limit_));
    pages_[table] = std::make_unique<Page>(table, tree_.tables[table].level);
    Page* p = pages_[table].get();
    p->reachable = p->level == 4;
    used_ += 1;
    if (number_.empty()) number_.resize(pages_.size());
    number_[table] = ++created_;
    const std::uint64_t identity = identity_ == nullptr ? table : (*identity_)[table];
    policy_.on_create(*p, PageFacts{Level{p->level}, tree_.arch == ArchKind::Ept, identity});
    if constexpr (requires { policy_.created(*p, table); }) policy_.created(*p, table);
    return p;
  }
  void entry(Page& p) {
    if constexpr (wants(Policy::kHooks, Hook::Entry)) policy_.on_entry(p, p.live);
  }
  /// Effects: what hangs from p can be reached from now on, or no more.
  void reach(Page& p, bool yes) {
    p.reachable = yes;
    if (p.level == 1) {
      mapped_ += yes ? p.live : -std::uint64_t{p.live};
      return;
    }
    for (Page* child : p.directory->child)
      if (child != nullptr && child->reachable != yes && (yes || !has_reachable_parent(*child))) reach(*child, yes);
  }
  [[nodiscard]] static bool has_reachable_parent(const Page& p) noexcept {
    return std::any_of(p.parents.begin(), p.parents.end(), [](const Link& l) { return l.parent->reachable; });
  }
  void own_child(Page& p, bool more) {
    p.own_children += more ? 1 : -1;
    if constexpr (wants(Policy::kHooks, Hook::Strand))
      if (p.own_children == (more ? 1 : 0)) policy_.on_strands(p, more);
  }
  /// Requires: the link is not among child.parents: not yet, or not any more.
  void tell_of_link(Page& parent, Page& child, bool linked) {
    if (child.parents.empty())
      own_child(parent, linked);
    else if (child.parents.size() == 1)
      own_child(*child.parents[0].parent, !linked);
    if constexpr (wants(Policy::kHooks, Hook::Orphan))
      if (child.parents.empty()) policy_.on_orphan(child, !linked);
    if constexpr (wants(Policy::kHooks, Hook::Link))
      if (linked) policy_.on_link(parent, child);
    if constexpr (wants(Policy::kHooks, Hook::Unlink))
      if (!linked) policy_.on_unlink(parent, child);
  }
  void link(Page& parent, std::uint16_t i, Page& child) {
    tell_of_link(parent, child, true);
    child.parents.push_back({&parent, i});
    parent.directory->child[i] = &child;
    parent.directory->accessed[i] = true;
    parent.live += 1;
    links_ += 1;
    if (parent.reachable && !child.reachable) reach(child, true);
    entry(parent);
  }
  void unlink(Page& parent, std::uint16_t i) {
    Page& child = *parent.directory->child[i];
    parent.directory->child[i] = nullptr;
    parent.live -= 1;
    auto at = std::find_if(child.parents.begin(), child.parents.end(),
                           [&](const Link& l) { return l.parent == &parent && l.index == i; });
    *at = child.parents.back();
    child.parents.pop_back();
    if (child.reachable && !has_reachable_parent(child)) reach(child, false);
    tell_of_link(parent, child, false);
  }
  void make_room_ahead() {
    if (plan_.when == EvictionPlan::When::BeforeWalk && limit_ < used_ + plan_.low) evict(plan_.wanted(limit_));
  }
  void evict(std::uint32_t want) {
    const View view{*this};
    while (used_ + want > limit_) {
      State* victim = policy_.victim(view);
      if (victim == nullptr) return;
      evict_page(View::page(*victim));
    }
  }
  void evict_page(Page& p) {
    f_.evictions += 1;
    if (p.level > 1) {
      f_.directories_zapped += 1;
      for (std::uint16_t i = 0; i < 512 && p.live != 0; ++i) {
        Page* child = p.directory->child[i];
        if (child == nullptr) continue;
        unlink(p, i);
        if (!child->parents.empty()) continue;
        if (plan_.children == EvictionPlan::Children::Recursive && child->roots == 0 && !child->walked)
          evict_page(*child);
        else
          f_.orphans += 1;
      }
    } else {
      f_.live_zapped += p.live;
    }
    while (!p.parents.empty()) unlink(*p.parents.back().parent, p.parents.back().index);
    policy_.on_remove(p);
    on_evict_(on_evict_with_, future_.now, number_[p.table]);
    used_ -= 1;
    pages_[p.table].reset();
  }

  const Tree& tree_;
  std::uint32_t limit_;
  EvictionPlan plan_;
  const std::vector<std::uint64_t>* identity_;
  Policy policy_;
  std::vector<std::unique_ptr<Page>> pages_;
  std::vector<std::uint64_t> number_;
  Samples samples_;
  Foresight future_;
  Figures f_;
  void (*on_evict_)(void*, std::uint64_t, std::uint64_t) = nullptr;
  void* on_evict_with_ = nullptr;
  std::uint32_t root_ = Tree::kNone;
  std::uint32_t used_ = 0;
  std::uint64_t created_ = 0, fills_ = 0, links_ = 0, touches_ = 0;
  std::uint64_t mapped_ = 0;  ///< leaf entries that can be reached
};

}  // namespace shadowmmu::bench
