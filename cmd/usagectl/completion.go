package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kingpin/v2"
)

// hintTimeout bounds how long somebody who pressed Tab waits for the daemon.
const hintTimeout = time.Second

// Both binaries complete their own command line: called with --completion-bash and the words so far, they print what may
// come next. The scripts pass the words on, --flag=value as two of them (bash has taken it apart already); what nothing is
// known about is completed as a file. Names are never expanded: compgen -W would run a $(command) in one.
var completionScripts = map[string]string{
	"bash": `_usaged_complete() {
    local cur="${COMP_WORDS[COMP_CWORD]}" word option words=()
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        [[ $word == "=" ]] || words+=("$word")
    done
    if [[ $cur == "=" ]]; then
        cur=""
        words+=("")
    fi
    COMPREPLY=()
    while IFS= read -r option || [[ -n $option ]]; do
        [[ $option != "$cur"* ]] || COMPREPLY+=("$(printf %q "$option")")
    done < <("${COMP_WORDS[0]}" --completion-bash "${words[@]}" 2>/dev/null)
}
complete -o default -o bashdefault -F _usaged_complete usagectl usaged
`,
	"zsh": `#compdef usagectl usaged
_usaged_complete() {
    local -a typed matches
    typed=("${(@)words[2,CURRENT]}")
    if [[ ${typed[-1]} == --*=* ]]; then
        typed[-1]=("${typed[-1]%%=*}" "${typed[-1]#*=}")
        compset -P '*='
    fi
    matches=("${(@f)$("${words[1]}" --completion-bash "${typed[@]}" 2>/dev/null)}")
    compadd -a matches
    if [[ $compstate[nmatches] -eq 0 && $words[CURRENT] != -* ]]; then
        _files
    fi
}
compdef _usaged_complete usagectl usaged
`,
	"fish": `function __usaged_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l flag ""
    if string match -q -- "--*=*" $current
        set flag (string replace -r "=.*" "=" -- $current)
        set words $words (string replace -r "=.*" "" -- $current)
        set current (string replace -r "^[^=]*=" "" -- $current)
    end
    set -l found (command $words[1] --completion-bash $words[2..-1] $current 2>/dev/null)
    if test (count $found) -gt 0
        printf "%s\n" $flag$found
    else
        __fish_complete_path $current
    end
end
complete -c usagectl -f -a "(__usaged_complete)"
complete -c usaged -f -a "(__usaged_complete)"
`,
}

// subcommands completes the word behind a group of commands that has one for its default. The parser takes that one for chosen, and names none.
func subcommands(app *kingpin.Application, args []string) (names []string) {
	if len(args) < 3 || args[0] != "--completion-bash" {
		return nil
	}
	group, typed := args[len(args)-2], args[len(args)-1]
	for _, command := range app.Model().Commands {
		if command.Name != group || !slices.ContainsFunc(command.Commands, func(c *kingpin.CmdModel) bool { return c.Default }) {
			continue
		}
		for _, sub := range command.Commands {
			if strings.HasPrefix(sub.Name, typed) && !sub.Hidden {
				names = append(names, sub.Name)
			}
		}
	}
	return names
}

func addCompletion(app *kingpin.Application, _ *session, commands map[string]command) {
	cmd := app.Command("completion", "Print a script by which a shell completes the command lines of usagectl and usaged: put "+
		"eval \"$(usagectl completion bash)\" into ~/.bashrc, or zsh for bash into ~/.zshrc; for fish write it to "+
		"~/.config/fish/completions/usagectl.fish.")
	shell := cmd.Arg("shell", "bash, zsh or fish.").Required().Enum("bash", "zsh", "fish")
	commands[cmd.FullCommand()] = func(_ context.Context, s *session) error {
		_, err := fmt.Fprint(s.stdout, completionScripts[*shell])
		return err
	}
}
