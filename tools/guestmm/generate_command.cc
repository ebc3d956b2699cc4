#include "tools/guestmm/generate_command.h"

#include <algorithm>
#include <cstddef>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "guestmm/base/version.h"
#include "tools/guestmm/arguments.h"
#include "tools/guestmm/help.h"
#include "tools/guestmm/usage_error.h"

namespace guestmm::tools {
namespace {

// `app`, and all commands that its help names, each before its own.
std::vector<const CLI::App*> AllCommands(const CLI::App& app) {
  std::vector<const CLI::App*> all = {&app};
  for (const std::string& name : SubcommandNames(app)) {
    const auto below = AllCommands(SubcommandNamed(app, name));
    all.insert(all.end(), below.begin(), below.end());
  }
  return all;
}

std::vector<const CLI::Option*> NamedOptions(const CLI::App& command) {
  return command.get_options(
      [](const CLI::Option* option) { return option->nonpositional(); });
}

// "--policies" and "--policy"; "-h" and "--help".
std::vector<std::string> NamesOf(const CLI::Option& option) {
  return absl::StrSplit(option.get_name(false, true), ',');
}

bool TakesPath(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  return type == "PATH" || type == "FILE" || type == "DIR";
}

// The words that are the option's values; none if it takes others.
std::vector<std::string> ChoicesOf(const CLI::Option& option) {
  const std::string type = option.get_type_name();
  std::vector<std::string> words = absl::StrSplit(type, '|');
  // SIZE|none is a size or a word.
  const bool is_kind = absl::AsciiStrToUpper(words[0]) == words[0] &&
                       absl::AsciiStrToLower(words[0]) != words[0];
  return words.size() < 2 || is_kind ? std::vector<std::string>() : words;
}

// The first clause of a help text.
std::string Short(const std::string& text) {
  return text.substr(0, text.find_first_of(".?;:[\n"));
}

// A word in single quotes, of a shell.
std::string Quoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

std::string JoinQuoted(const std::vector<std::string>& words,
                       const std::string& separator) {
  return absl::StrJoin(words, separator,
                       [](std::string* out, const std::string& word) {
                         out->append(Quoted(word));
                       });
}

// Each command as its shell's function meets it: the command before it, and
// its own name.
std::vector<std::string> Steps(const CLI::App& app) {
  std::vector<std::string> steps;
  for (const CLI::App* const command : AllCommands(app)) {
    if (command == &app) continue;
    steps.push_back(absl::StrCat(WordsOf(*command->get_parent()), " ",
                                 command->get_name()));
  }
  return steps;
}

// The value of the last word but one, as bash and zsh have it in a case:
// `with_words` and `with_paths` complete it.
std::string ValueCases(const CLI::App& app, const std::string& with_words,
                       const std::string& with_paths) {
  std::string cases;
  for (const CLI::App* const command : AllCommands(app)) {
    for (const CLI::Option* const option : NamedOptions(*command)) {
      const std::vector<std::string> words = ChoicesOf(*option);
      if (words.empty() && !TakesPath(*option)) continue;
      std::vector<std::string> at = NamesOf(*option);
      for (std::string& name : at) {
        name = absl::StrCat(WordsOf(*command), " ", name);
      }
      absl::StrAppend(
          &cases, "    ", JoinQuoted(at, "|"), ") ",
          words.empty()
              ? with_paths
              : absl::StrReplaceAll(with_words,
                                    {{"WORDS", absl::StrJoin(words, " ")}}),
          "; return ;;\n");
    }
  }
  return cases;
}

std::string BashCompletion(const CLI::App& app) {
  std::string cases;
  for (const CLI::App* const command : AllCommands(app)) {
    std::vector<std::string> words = SubcommandNames(*command);
    for (const CLI::Option* const option : NamedOptions(*command)) {
      for (const std::string& name : NamesOf(*option)) words.push_back(name);
    }
    absl::StrAppend(&cases, "    ", Quoted(WordsOf(*command)),
                    ") words=", Quoted(absl::StrJoin(words, " ")), " ;;\n");
  }
  return absl::StrCat(
      R"(# bash completion of guestmm, generated from its options.
_guestmm() {
  local cur=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
  local command='' word words=''
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$command $word" in
      )",
      JoinQuoted(Steps(app), "|"), R"() command=${command:+$command }$word ;;
    esac
  done
  case "$command $before" in
)",
      ValueCases(app, "COMPREPLY=($(compgen -W 'WORDS' -- \"$cur\"))",
                 "COMPREPLY=($(compgen -f -- \"$cur\"))"),
      R"(  esac
  case "$command" in
)",
      cases, R"(  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
}
complete -o bashdefault -o default -F _guestmm guestmm
)");
}

// "name:text" for zsh's _describe.
std::string Described(const std::string& name, const std::string& text) {
  return Quoted(absl::StrCat(absl::StrReplaceAll(name, {{":", "\\:"}}), ":",
                             Short(text)));
}

std::string ZshCompletion(const CLI::App& app) {
  std::string cases;
  for (const CLI::App* const command : AllCommands(app)) {
    absl::StrAppend(&cases, "    ", Quoted(WordsOf(*command)), ") choices=(");
    for (const std::string& name : SubcommandNames(*command)) {
      const CLI::App& below = SubcommandNamed(*command, name);
      absl::StrAppend(&cases, "\n      ",
                      Described(name, below.get_description()));
    }
    for (const CLI::Option* const option : NamedOptions(*command)) {
      for (const std::string& name : NamesOf(*option)) {
        absl::StrAppend(&cases, "\n      ",
                        Described(name, option->get_description()));
      }
    }
    cases += ") ;;\n";
  }
  return absl::StrCat(R"(#compdef guestmm
# Generated from the options of guestmm.
_guestmm() {
  local command='' word
  local -a choices
  for word in "${(@)words[2,CURRENT-1]}"; do
    case "$command $word" in
      )",
                      JoinQuoted(Steps(app), "|"),
                      R"() command=${command:+$command }$word ;;
    esac
  done
  case "$command ${words[CURRENT-1]}" in
)",
                      ValueCases(app, "compadd -- WORDS", "_files"), R"(  esac
  case "$command" in
)",
                      cases, R"(  esac
  _describe guestmm choices || _files
}
_guestmm "$@"
)");
}

std::string FishCompletion(const CLI::App& app) {
  std::string text = absl::StrCat(R"(# Generated from the options of guestmm.
function __guestmm_at
    set -l at
    for word in (commandline -opc)[2..-1]
        switch "$at $word"
            case )",
                                  JoinQuoted(Steps(app), " "), R"(
                set at (string trim "$at $word")
        end
    end
    test "$at" = "$argv"
end
)");
  for (const CLI::App* const command : AllCommands(app)) {
    const std::string begin =
        absl::StrCat("complete -c guestmm -n ",
                     Quoted(absl::StrCat("__guestmm_at ", WordsOf(*command))));
    for (const std::string& name : SubcommandNames(*command)) {
      const CLI::App& below = SubcommandNamed(*command, name);
      absl::StrAppend(&text, begin, " -f -a ", name, " -d ",
                      Quoted(Short(below.get_description())), "\n");
    }
    for (const CLI::Option* const option : NamedOptions(*command)) {
      text += begin;
      for (const std::string& name : NamesOf(*option)) {
        const bool is_long = name.starts_with("--");
        absl::StrAppend(&text, is_long ? " -l " : " -s ",
                        name.substr(is_long ? 2 : 1));
      }
      const std::vector<std::string> words = ChoicesOf(*option);
      if (!words.empty()) {
        absl::StrAppend(&text, " -x -a ", Quoted(absl::StrJoin(words, " ")));
      } else if (TakesPath(*option)) {
        text += " -r";
      } else if (TakesValue(*option)) {
        text += " -x";
      }
      absl::StrAppend(&text, " -d ", Quoted(Short(option->get_description())),
                      "\n");
    }
  }
  return text;
}

// A text as roff prints it: a dash that can be copied, no command at the start
// of a line.
std::string Roff(const std::string& text) {
  return "\\&" + absl::StrReplaceAll(
                     text, {{"\\", "\\e"}, {"-", "\\-"}, {"\n", "\n.br\n\\&"}});
}

std::string ManOption(const CLI::Option& option) {
  const bool is_named = option.nonpositional();
  const std::string names =
      is_named ? absl::StrJoin(NamesOf(option), ", ") : option.get_name(true);
  return absl::StrCat(".TP\n.B ", Roff(names + ValueText(option)), "\n",
                      Roff(option.get_description()), "\n");
}

std::string ManPage(const CLI::App& app) {
  std::string text = absl::StrCat(
      ".TH GUESTMM 1 \"\" \"guestmm " GUESTMM_VERSION "\"\n.SH NAME\n",
      absl::StrReplaceAll(app.get_description(), {{": ", " \\- "}}),
      "\n.SH SYNOPSIS\n.B guestmm\n.I COMMAND\n[OPTION]...\n");
  for (const CLI::App* const command : AllCommands(app)) {
    if (command == &app) {
      text += ".SH OPTIONS\n";
    } else {
      absl::StrAppend(&text, ".SH ", absl::AsciiStrToUpper(FullName(*command)),
                      "\n", Roff(command->get_description()), "\n");
    }
    for (const CLI::Option* const option : command->get_options()) {
      text += ManOption(*option);
    }
    if (command->get_footer().empty()) continue;
    absl::StrAppend(&text, ".PP\nExamples:\n.PP\n.nf\n",
                    Roff(command->get_footer()), "\n.fi\n");
  }
  return absl::StrCat(text, ".SH NOTES\n",
                      Roff(absl::StrJoin(ClosingNotes(app), "\n")), "\n");
}

}  // namespace

void AddGenerateCommand(CLI::App& app) {
  using Generator = std::string (*)(const CLI::App&);
  CLI::App& command = *app.add_subcommand(
      "generate", "Prints the man page, or the completion for a shell.");
  command.group("");  // hidden
  const auto generator = std::make_shared<Generator>(ManPage);
  AddChoice<Generator>(command, "KIND",
                       {{"man", ManPage},
                        {"bash", BashCompletion},
                        {"zsh", ZshCompletion},
                        {"fish", FishCompletion}},
                       *generator, "What to print");
  command.callback([&app, generator] { std::cout << (*generator)(app); });
}

}  // namespace guestmm::tools
