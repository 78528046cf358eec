#include "cli/completion.h"

#include <vector>

#include "absl/strings/str_replace.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace normlab::cli {
namespace {

struct Flag {
  std::vector<std::string> names;  // With dashes.
  std::string description;
  bool takes_value = false;
};

/// A command as shells see it: its path of words ("data prepare"), what may follow.
struct Node {
  std::string path;  // Empty for the program itself.
  std::vector<const CLI::App*> children;
  std::vector<Flag> flags;
  bool takes_file = false;
};

std::vector<Flag> FlagsOf(const CLI::App& app) {
  std::vector<Flag> flags;
  for (const CLI::Option* option : app.get_options()) {
    Flag flag;
    for (const std::string& name : option->get_lnames()) flag.names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) flag.names.push_back("-" + name);
    flag.description = option->get_description();
    flag.takes_value = option->get_items_expected_max() > 0 && option->get_type_size() != 0;
    if (!flag.names.empty()) flags.push_back(std::move(flag));
  }
  return flags;
}

bool TakesFile(const CLI::App& app) {
  for (const CLI::Option* option : app.get_options()) {
    const std::string type = option->get_type_name();
    if (option->get_positional() && (type.find("FILE") != std::string::npos || type.find("DIR") != std::string::npos)) {
      return true;
    }
  }
  return false;
}

void Collect(const CLI::App& app, const std::string& path, std::vector<Node>* nodes) {
  Node node{.path = path, .flags = FlagsOf(app), .takes_file = TakesFile(app)};
  for (const CLI::App* child : app.get_subcommands({})) node.children.push_back(child);
  nodes->push_back(node);
  for (const CLI::App* child : node.children) {
    Collect(*child, path.empty() ? child->get_name() : path + " " + child->get_name(), nodes);
  }
}

std::vector<std::string> WordsOf(const Node& node, const Node& root) {
  std::vector<std::string> words;
  for (const CLI::App* child : node.children) words.push_back(child->get_name());
  for (const Flag& flag : node.flags) words.insert(words.end(), flag.names.begin(), flag.names.end());
  if (&node != &root) {
    for (const Flag& flag : root.flags) {
      for (const std::string& name : flag.names) {
        if (std::find(words.begin(), words.end(), name) == words.end()) words.push_back(name);
      }
    }
  }
  return words;
}

/// Finds the command among the words typed so far by walking down the tree, then offers its words, or files.
std::string BashScript(const std::vector<Node>& nodes) {
  std::string script =
      "# bash completion for normlab; use it with: source <(normlab completion bash)\n"
      "_normlab() {\n"
      "  local current=\"${COMP_WORDS[COMP_CWORD]}\" path=\"\" word i\n"
      "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
      "    word=\"${path:+$path }${COMP_WORDS[i]}\"\n"
      "    case \"$word\" in\n";
  std::vector<std::string> paths;
  for (const Node& node : nodes) {
    if (!node.path.empty()) paths.push_back(fmt::format("\"{}\"", node.path));
  }
  script += fmt::format("      {}) path=\"$word\" ;;\n", fmt::join(paths, "|"));
  script +=
      "    esac\n"
      "  done\n"
      "  local words=\"\" files=\"\"\n"
      "  case \"$path\" in\n";
  for (const Node& node : nodes) {
    script += fmt::format("    \"{}\") words=\"{}\"{} ;;\n", node.path, fmt::join(WordsOf(node, nodes.front()), " "),
                          node.takes_file ? "; files=1" : "");
  }
  script +=
      "  esac\n"
      "  case \"${COMP_WORDS[COMP_CWORD-1]}\" in\n"
      "    -o|--output) words=\"table json\" ;;\n"
      "  esac\n"
      "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
      "  if [[ -n \"$files\" && \"$current\" != -* ]]; then COMPREPLY+=($(compgen -f -- \"$current\")); fi\n"
      "}\n"
      "complete -o bashdefault -F _normlab normlab\n";
  return script;
}

std::string ZshScript(const std::vector<Node>& nodes) {
  return "#compdef normlab\n"
         "# zsh completion for normlab; use it with: source <(normlab completion zsh)\n"
         "autoload -U +X bashcompinit && bashcompinit\n" +
         BashScript(nodes);
}

std::string QuoteFish(const std::string& text) {
  return "'" + absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}) + "'";
}

std::string FishScript(const std::vector<Node>& nodes) {
  std::string script =
      "# fish completion for normlab; use it with: normlab completion fish | source\n"
      "complete -c normlab -f\n";
  for (const Node& node : nodes) {
    // Seen all words of the path and none of the children's: the cursor stands at this command.
    std::string condition = "__fish_use_subcommand";
    if (!node.path.empty()) {
      std::vector<std::string> tests;
      for (size_t start = 0; start != std::string::npos;) {
        const size_t space = node.path.find(' ', start);
        tests.push_back("__fish_seen_subcommand_from " + node.path.substr(start, space - start));
        start = space == std::string::npos ? space : space + 1;
      }
      for (const CLI::App* child : node.children) {
        tests.push_back("not __fish_seen_subcommand_from " + child->get_name());
      }
      condition = fmt::format("{}", fmt::join(tests, "; and "));
    }
    for (const CLI::App* child : node.children) {
      script += fmt::format("complete -c normlab -n {} -a {} -d {}\n", QuoteFish(condition),
                            QuoteFish(child->get_name()), QuoteFish(child->get_description()));
    }
    for (const Flag& flag : node.flags) {
      std::string names;
      for (const std::string& name : flag.names) {
        names += name.starts_with("--") ? " -l " + name.substr(2) : " -s " + name.substr(1);
      }
      const std::string where = node.path.empty() ? "" : " -n " + QuoteFish(condition);
      script += fmt::format("complete -c normlab{}{}{} -d {}\n", where, names, flag.takes_value ? " -r" : "",
                            QuoteFish(flag.description));
    }
    if (node.takes_file) script += fmt::format("complete -c normlab -n {} -F\n", QuoteFish(condition));
  }
  return script;
}

}  // namespace

std::string CompletionScript(const CLI::App& app, const std::string& shell) {
  std::vector<Node> nodes;
  Collect(app, "", &nodes);
  if (shell == "bash") return BashScript(nodes);
  if (shell == "zsh") return ZshScript(nodes);
  if (shell == "fish") return FishScript(nodes);
  return "";
}

}  // namespace normlab::cli
