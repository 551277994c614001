// SPDX-License-Identifier: BSL-1.0
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "reclaim/bound.hpp"
#include "reclaim/machine.hpp"
#include "reclaim/offline.hpp"
#include "reclaim/sensitivity.hpp"
#include "reclaim/synthetic.hpp"
#include "shadowmmu/reclaim/fifo.hpp"

namespace shadowmmu::bench {
#define SHADOWMMU_POLICY(symbol, name)                                \
  Figures replay_##symbol##_X86_64(const Tree& tree, const Setup& s); \
  Figures replay_##symbol##_Ept(const Tree& tree, const Setup& s);
#include "policies.inc"
#undef SHADOWMMU_POLICY
}  // namespace shadowmmu::bench

namespace {
using namespace shadowmmu;
using namespace shadowmmu::bench;
namespace fs = std::filesystem;

constexpr const char* kDefaultPolicy = "greedy-dual-frequency";
/// Rows of what needs the future.
constexpr const char* kOffline[] = {"belady-table", "belady-cost", "lower-bound"};

/// Cells in which FIFO has fewer refaults than this say little about anything.
constexpr std::uint64_t kTellingRefaults = 100;

struct Policy {
  std::string name;
  std::function<Figures(const Tree&, const Setup&)> run;
  bool offline = false;
};

Figures bound_as_figures(const Tree& tree, const Setup& setup) {
  Figures f;
  const double began = now_ns();
  f.refaults = f.leaf_refills = lower_bound(tree, setup.limit).refaults;
  f.faults = f.refaults + tree.least_faults;
  f.seconds = (now_ns() - began) / 1e9;
  return f;
}

std::vector<Policy> all_policies() {
  std::vector<Policy> all;
#define SHADOWMMU_POLICY(symbol, name)                                                                            \
  all.push_back({name, [](const Tree& t, const Setup& s) {                                                        \
                   return t.arch == ArchKind::Ept ? replay_##symbol##_Ept(t, s) : replay_##symbol##_X86_64(t, s); \
                 }});
#include "policies.inc"
#undef SHADOWMMU_POLICY
  const auto model = [](auto type) {
    return [](const Tree& t, const Setup& s) {
      return Model<typename decltype(type)::type>(t, s.limit, s.own_plan ? EvictionPlan{} : s.plan).run();
    };
  };
  all.push_back({kOffline[0], model(std::type_identity<BeladyByTable>{}), true});
  all.push_back({kOffline[1], model(std::type_identity<BeladyByCost>{}), true});
  all.push_back({kOffline[2], bound_as_figures, true});
  return all;
}

struct Options {
  std::vector<std::string> traces;
  std::optional<ArchKind> arch;
  std::vector<std::uint32_t> limits{64, 128, 256};
  std::vector<std::string> policies{"all"};
  Setup setup;
  bool sensitivity = false;
  fs::path out;
  unsigned jobs = std::max(1U, std::thread::hardware_concurrency());
};

constexpr const char* kUsage =
    R"(usage: reclaim_study --trace FILE... [options]
       reclaim_study --convert FILE OUT.u64.zst

Replays traces of page touches through the Mmu and tells how often each reclaim policy makes a guest fault again.

  --trace FILE       .u64, .u64.zst, .oracleGeneral[.zst], .lackey[.zst]; may be given several times;
                     or synthetic:scan, zipf, adversary, phases
  --arch ept|x86_64  format of the shadow tables; without it ept for traces named *-gpa, else x86_64
  --limit N,...      shadow pages allowed (64,128,256); 12 at least
  --policy NAME,...  or all, online, offline (all)
  --plan WORDS       instead of each policy's plan: during|before, recursive, low=N, refill=N, share=N, by commas
  --tlb N            translations that the CPU caches (0: every touch walks the tables and sets A bits)
  --sensitivity      instead of the study: the default policy with other parameters, in the model; with --out it
                     writes sensitivity.csv
  --audit            check every invariant of the Mmu after each replay
  --out DIR          write study.csv, study.json and mapped.csv there
  --jobs N           replays at a time (one a core)
)";

[[noreturn]] void refuse(const std::string& why) {
  std::fprintf(stderr, "reclaim_study: %s\n", why.c_str());
  std::exit(2);
}

std::vector<std::string> words(const std::string& list) {
  std::vector<std::string> out;
  for (std::size_t at = 0; at <= list.size();) {
    const std::size_t end = std::min(list.find(',', at), list.size());
    if (end == at) refuse("'" + list + "': an empty word");
    out.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

std::uint32_t number(const std::string& option, const std::string& text, std::uint32_t least, std::uint32_t most) {
  std::uint32_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc{} || end != text.data() + text.size() || n < least || n > most)
    refuse(option + ": '" + text + "' is no number from " + std::to_string(least) + " to " + std::to_string(most));
  return n;
}

EvictionPlan parse_plan(const std::string& text) {
  EvictionPlan plan;
  for (const std::string& w : words(text)) {
    const auto value = [&](std::uint32_t least) {
      return static_cast<std::uint16_t>(number("--plan", w.substr(w.find('=') + 1), least, 65535));
    };
    if (w == "during")
      plan.when = EvictionPlan::When::DuringWalk;
    else if (w == "before")
      plan.when = EvictionPlan::When::BeforeWalk;
    else if (w == "recursive")
      plan.children = EvictionPlan::Children::Recursive;
    else if (w.starts_with("low="))
      plan.low = value(5);
    else if (w.starts_with("refill="))
      plan.refill = value(1);
    else if (w.starts_with("share="))
      plan.share = value(0);
    else
      refuse("--plan: what is '" + w + "'?");
  }
  if (!plan_sane(plan)) refuse("--plan: '" + text + "' leaves no room for a fault (before: refill must exceed low)");
  return plan;
}

Options parse(int argc, char** argv) {
  Options o;
  std::vector<std::string> args(argv + 1, argv + argc);
  for (std::size_t i = 0; i < args.size(); ++i) {
    const std::string& a = args[i];
    const auto value = [&]() -> const std::string& {
      if (i + 1 == args.size()) refuse(a + " needs a value");
      return args[++i];
    };
    if (a == "--help" || a == "-h") {
      std::fputs(kUsage, stdout);
      std::exit(0);
    } else if (a == "--trace") {
      o.traces.push_back(value());
    } else if (a == "--arch") {
      const std::string& v = value();
      if (v != "ept" && v != "x86_64") refuse("--arch: '" + v + "' is neither ept nor x86_64");
      o.arch = v == "ept" ? ArchKind::Ept : ArchKind::X86_64;
    } else if (a == "--limit") {
      o.limits.clear();
      for (const std::string& w : words(value())) o.limits.push_back(number(a, w, 12, (1U << 22U) - 1));
    } else if (a == "--policy") {
      o.policies = words(value());
    } else if (a == "--plan") {
      o.setup.plan = parse_plan(value());
      o.setup.own_plan = false;
    } else if (a == "--tlb") {
      o.setup.tlb = number(a, value(), 0, 1U << 20U);
    } else if (a == "--sensitivity") {
      o.sensitivity = true;
    } else if (a == "--audit") {
      o.setup.audit = true;
    } else if (a == "--out") {
      o.out = value();
    } else if (a == "--jobs") {
      o.jobs = number(a, value(), 1, 1024);
    } else {
      refuse("what is '" + a + "'? (--help)");
    }
  }
  if (o.traces.empty()) refuse("no --trace (--help)");
  return o;
}

std::vector<Policy> chosen_policies(const std::vector<std::string>& names) {
  const std::vector<Policy> all = all_policies();
  std::vector<Policy> out;
  const auto add = [&](const Policy& p) {
    for (const Policy& have : out)
      if (have.name == p.name) return;
    out.push_back(p);
  };
  for (const std::string& n : names) {
    bool found = false;
    for (const Policy& p : all) {
      if (n != p.name && n != "all" && n != (p.offline ? "offline" : "online")) continue;
      add(p);
      found = true;
    }
    if (!found) {
      std::string known;
      for (const Policy& p : all) known += " " + p.name;
      refuse("--policy: '" + n + "' is none of all, online, offline," + known);
    }
  }
  return out;
}

struct Row {
  std::string trace, arch, policy;
  std::uint32_t limit = 0;
  bool offline = false;
  Figures f;
};

/// How far the whole study is, on one line of a terminal, or in tenths where there is none.
class Progress {
 public:
  explicit Progress(double total) : total_(total), terminal_(::isatty(2) == 1) {}
  void add(double work, const std::string& what) {
    const std::lock_guard<std::mutex> lock(mutex_);
    done_ += work;
    const double part = done_ / total_;
    if (terminal_) {
      const int filled = static_cast<int>(part * 40);
      std::fprintf(stderr, "\r[%-40.*s] %3.0f %%  %-60.60s", filled, "########################################",
                   part * 100, what.c_str());
    } else if (static_cast<int>(part * 10) > tenths_) {
      tenths_ = static_cast<int>(part * 10);
      std::fprintf(stderr, "reclaim_study: %d %%\n", tenths_ * 10);
    }
  }
  void end() const {
    if (terminal_) std::fprintf(stderr, "\r%110s\r", "");
  }

 private:
  std::mutex mutex_;
  double total_, done_ = 0;
  int tenths_ = 0;
  bool terminal_;
};

/// Effects: runs f(0) .. f(count - 1) on `jobs` threads. Throws what the first of them threw.
void in_parallel(std::size_t count, unsigned jobs, const std::function<void(std::size_t)>& f) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failed;
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < jobs; ++t)
    threads.emplace_back([&] {
      for (std::size_t i = next++; i < count; i = next++) {
        try {
          f(i);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(mutex);
          if (!failed) failed = std::current_exception();
          next = count;
        }
      }
    });
  for (std::thread& t : threads) t.join();
  if (failed) std::rethrow_exception(failed);
}

bool is_bound(const Row& r) { return r.policy == kOffline[2]; }

void write_csv(const fs::path& path, const std::vector<Row>& rows) {
  std::ofstream out(path);
  out << "trace,arch,policy,limit,faults,refaults,leaf_refills,link_refills,live_zapped,directories_zapped,"
         "mapped_mean,mapped_sd,sawtooth,a_bit_reads,ns_per_reclaim\n";
  for (const Row& r : rows) {
    out << r.trace << ',' << r.arch << ',' << r.policy << ',' << r.limit << ',' << r.f.faults << ',' << r.f.refaults
        << ',' << r.f.leaf_refills << ',';
    if (is_bound(r))
      out << "nan,nan,nan,nan,nan,nan,nan,nan\n";
    else
      out << r.f.link_refills << ',' << r.f.live_zapped << ',' << r.f.directories_zapped << ',' << r.f.mapped_mean
          << ',' << r.f.mapped_sd << ',' << r.f.sawtooth << ',' << r.f.a_bit_reads << ','
          << (r.offline ? std::string("nan") : std::to_string(r.f.ns_per_reclaim)) << '\n';
  }
  if (!out.flush()) throw std::runtime_error(path.string() + " cannot be written");
}

void write_json(const fs::path& path, const std::vector<Row>& rows) {
  std::ofstream out(path);
  out << "[\n";
  for (const Row& r : rows) {
    const Figures& f = r.f;
    out << "  {\"trace\": \"" << r.trace << "\", \"arch\": \"" << r.arch << "\", \"policy\": \"" << r.policy
        << "\", \"limit\": " << r.limit << ", \"offline\": " << (r.offline ? "true" : "false")
        << ", \"faults\": " << f.faults << ", \"refaults\": " << f.refaults << ", \"leaf_refills\": " << f.leaf_refills;
    if (!is_bound(r))
      out << ", \"link_refills\": " << f.link_refills << ", \"live_zapped\": " << f.live_zapped
          << ", \"directories_zapped\": " << f.directories_zapped << ", \"orphans\": " << f.orphans
          << ", \"evictions\": " << f.evictions << ", \"mapped_mean\": " << f.mapped_mean
          << ", \"mapped_sd\": " << f.mapped_sd << ", \"sawtooth\": " << f.sawtooth
          << ", \"largest_drop\": " << f.largest_drop << ", \"a_bit_reads\": " << f.a_bit_reads;
    if (!r.offline) out << ", \"ns_per_reclaim\": " << f.ns_per_reclaim;
    out << ", \"seconds\": " << f.seconds << (&r == &rows.back() ? "}\n" : "},\n");
  }
  out << "]\n";
  if (!out.flush()) throw std::runtime_error(path.string() + " cannot be written");
}

/// Referenced guest pages over time, at the first limit: for the plots.
void write_mapped(const fs::path& path, const std::vector<Row>& rows, std::uint32_t limit) {
  std::ofstream out(path);
  out << "trace,arch,policy,limit,touches,mapped\n";
  for (const Row& r : rows)
    for (std::size_t i = 0; r.limit == limit && i < r.f.mapped.size(); ++i)
      out << r.trace << ',' << r.arch << ',' << r.policy << ',' << r.limit << ',' << (i + 1) * Samples::kEvery << ','
          << r.f.mapped[i] << '\n';
  if (!out.flush()) throw std::runtime_error(path.string() + " cannot be written");
}

/// Refaults over those of FIFO, for each policy and cell, and what they come to over all cells.
void print_table(const std::vector<Row>& rows) {
  std::vector<std::string> cells, policies;
  std::map<std::pair<std::string, std::string>, const Row*> at;
  const auto note = [](std::vector<std::string>& names, const std::string& n) {
    if (std::find(names.begin(), names.end(), n) == names.end()) names.push_back(n);
  };
  for (const Row& r : rows) {
    const std::string cell = r.trace + " " + r.arch + " " + std::to_string(r.limit);
    note(cells, cell);
    note(policies, r.policy);
    at[{r.policy, cell}] = &r;
  }
  std::printf("Refaults of FIFO, and of the others over FIFO's:\n");
  for (const std::string& c : cells) {
    const auto fifo = at.find({"fifo", c});
    std::printf("  %-36s", c.c_str());
    if (fifo != at.end()) std::printf(" %9llu", static_cast<unsigned long long>(fifo->second->f.refaults));
    std::printf("\n");
  }
  std::printf("\n%-24s", "");
  for (std::size_t c = 0; c < cells.size(); ++c) std::printf(" %6zu", c + 1);
  std::printf("   geomean  sum        sawtooth  A/evict  ns/evict\n");
  for (const std::string& p : policies) {
    std::printf("%-24s", p.c_str());
    double logs = 0, sum = 0, saw = 0, a_bits = 0, evictions = 0, ns = 0;
    unsigned counted = 0;
    for (const std::string& c : cells) {
      const auto own = at.find({p, c});
      const auto fifo = at.find({"fifo", c});
      const bool telling = fifo != at.end() && fifo->second->f.refaults >= kTellingRefaults;
      if (own == at.end()) continue;
      const Figures& f = own->second->f;
      sum += static_cast<double>(f.refaults);
      saw = std::max(saw, f.sawtooth);
      a_bits += static_cast<double>(f.a_bit_reads);
      evictions += static_cast<double>(f.evictions);
      ns += f.ns_per_reclaim * static_cast<double>(f.evictions);
      if (!telling) {
        std::printf(" %6s", "-");
        continue;
      }
      const double ratio =
          static_cast<double>(std::max<std::uint64_t>(f.refaults, 1)) / static_cast<double>(fifo->second->f.refaults);
      logs += std::log(ratio);
      counted += 1;
      std::printf(" %6.3f", ratio);
    }
    std::printf("   %7.3f  %9.0f", counted == 0 ? 1.0 : std::exp(logs / counted), sum);
    if (evictions > 0) std::printf("  %7.1f %%  %7.2f", saw * 100, a_bits / evictions);
    if (ns > 0) std::printf("  %8.0f", ns / evictions);
    std::printf("\n");
  }
  std::printf(
      "\nColumns: the cells above, in order; a dash where FIFO has fewer than %llu or was not run. Sawtooth: of the "
      "worst cell. Default policy: %s.\n",
      static_cast<unsigned long long>(kTellingRefaults), kDefaultPolicy);
}

/// Returns: the trace of a file, or one that is made up. Its name fits a row of CSV.
Trace open_trace(const std::string& path) {
  constexpr std::string_view kMade = "synthetic:";
  Trace t = path.starts_with(kMade) ? synthetic(path.substr(kMade.size()), 400'000) : load_trace(path);
  for (char& c : t.name)
    if (c == ',' || c == '"' || c == '\\' || static_cast<unsigned char>(c) < ' ') c = '_';
  return t;
}

ArchKind arch_of(const Options& o, const Trace& t) {
  return o.arch.value_or(t.name.ends_with("-gpa") ? ArchKind::Ept : ArchKind::X86_64);
}

int sensitivity(const Options& o) {
  const std::vector<Variant> all = variants();
  std::vector<double> logs(all.size()), worst(all.size());
  std::size_t cells = 0;
  Progress progress(static_cast<double>(o.traces.size() * o.limits.size() * all.size()));
  for (const std::string& path : o.traces) {
    const Trace trace = open_trace(path);
    const Tree tree(trace, arch_of(o, trace));
    for (const std::uint32_t limit : o.limits) {
      const std::uint64_t fifo = Model<reclaim::Fifo>(tree, limit, {}).run().refaults;
      const bool counts = fifo >= kTellingRefaults;
      cells += counts ? 1 : 0;
      in_parallel(all.size(), o.jobs, [&](std::size_t i) {
        progress.add(1, tree.name + " " + all[i].parameter + " " + all[i].value);
        if (!counts) return;
        const auto refaults = static_cast<double>(std::max<std::uint64_t>(all[i].refaults(tree, limit), 1));
        const double ratio = refaults / static_cast<double>(fifo);
        logs[i] += std::log(ratio);
        worst[i] = std::max(worst[i], ratio);
      });
    }
  }
  progress.end();
  if (cells == 0) refuse("in no cell does FIFO have as many as " + std::to_string(kTellingRefaults) + " refaults");
  std::string csv = "parameter,value,geomean,worst,default\n";
  for (std::size_t i = 0; i < all.size(); ++i) {
    const double mean = std::exp(logs[i] / static_cast<double>(cells));
    std::printf("%-28s %-24s %7.4f  worst cell %6.3f%s\n", all[i].parameter.c_str(), all[i].value.c_str(), mean,
                worst[i], all[i].standard ? "  (the library's)" : "");
    csv += all[i].parameter + ",\"" + all[i].value + "\"," + std::to_string(mean) + ',' + std::to_string(worst[i]) +
           ',' + (all[i].standard ? "1" : "0") + '\n';
  }
  if (o.out.empty()) return 0;
  fs::create_directories(o.out);
  std::ofstream out(o.out / "sensitivity.csv");
  out << csv;
  if (!out.flush()) throw std::runtime_error((o.out / "sensitivity.csv").string() + " cannot be written");
  return 0;
}

int study(const Options& o) {
  const std::vector<Policy> policies = chosen_policies(o.policies);
  if (!o.out.empty()) fs::create_directories(o.out);
  Progress progress(static_cast<double>(o.traces.size() * policies.size() * o.limits.size()));
  std::vector<Row> rows;
  for (const std::string& path : o.traces) {
    std::optional<Tree> tree;
    {
      const Trace trace = open_trace(path);
      tree.emplace(trace, arch_of(o, trace));
    }
    std::vector<Row> some(policies.size() * o.limits.size());
    in_parallel(some.size(), o.jobs, [&](std::size_t i) {
      // The bounds take longest: they come first, so that none is left running alone.
      const std::size_t which = policies.size() - 1 - i / o.limits.size();
      const Policy& p = policies[which];
      Setup setup = o.setup;
      setup.limit = o.limits[i % o.limits.size()];
      Row& r = some[i % o.limits.size() * policies.size() + which];
      r = {tree->name, name_of(tree->arch), p.name, setup.limit, p.offline, p.run(*tree, setup)};
      progress.add(1, r.trace + " " + r.policy + " " + std::to_string(r.limit));
    });
    rows.insert(rows.end(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
  }
  progress.end();
  print_table(rows);
  if (o.out.empty()) return 0;
  write_csv(o.out / "study.csv", rows);
  write_json(o.out / "study.json", rows);
  write_mapped(o.out / "mapped.csv", rows, o.limits.front());
  std::printf("Written: %s/{study.csv, study.json, mapped.csv}\n", o.out.c_str());
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    if (argc == 4 && std::string(argv[1]) == "--convert") {
      save_trace(argv[3], load_trace(argv[2]).records);
      return 0;
    }
    const Options o = parse(argc, argv);
    return o.sensitivity ? sensitivity(o) : study(o);
  } catch (const std::exception& e) {
    refuse(e.what());
  }
}
