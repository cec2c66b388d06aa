package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// bashFunctions stand in for the two functions of the package bash-completion that
// cobra's script for bash calls, where that package is not installed. They split the line
// into words without breaking at = and :, and cut the part that bash has completed already.
const bashFunctions = `# Without the package bash-completion, these take the place of its own.
if ! declare -F _get_comp_words_by_ref >/dev/null; then
_get_comp_words_by_ref()
{
    local line=${COMP_LINE:0:COMP_POINT} i at=-1
    words=()
    cword=0
    for i in "${!COMP_WORDS[@]}"; do
        if [[ $at -lt 0 || $line == [[:blank:]]* || $i -gt $COMP_CWORD ]]; then
            at=$((at + 1))
            words[at]=
        fi
        line=${line#"${line%%[![:blank:]]*}"}
        if [[ $i -eq $COMP_CWORD ]]; then
            words[at]+=$line
            cword=$at
        else
            words[at]+=${COMP_WORDS[i]}
            line=${line:${#COMP_WORDS[i]}}
        fi
    done
    cur=${words[cword]}
    prev=
    if [[ $cword -gt 0 ]]; then prev=${words[cword - 1]}; fi
}
fi
if ! declare -F __ltrim_colon_completions >/dev/null; then
__ltrim_colon_completions()
{
    local had=${1%"${1##*:}"} i
    [[ $COMP_WORDBREAKS == *:* ]] || return 0
    for i in "${!COMPREPLY[@]}"; do
        COMPREPLY[i]=${COMPREPLY[i]#"$had"}
    done
}
fi

`

// withoutBashCompletion puts bashFunctions before cobra's script.
func withoutBashCompletion(root *cobra.Command) {
	bash, _, err := root.Find([]string{"completion", "bash"})
	if err != nil || bash.RunE == nil {
		return
	}
	bash.Long = strings.Replace(bash.Long, `This script depends on the 'bash-completion' package.
If it is not installed already, you can install it via your OS's package manager.
`, `It works with the package bash-completion and without it.
`, 1)
	script := bash.RunE
	bash.RunE = func(cmd *cobra.Command, args []string) error {
		if _, err := io.WriteString(cmd.OutOrStdout(), bashFunctions); err != nil {
			return err
		}
		return script(cmd, args)
	}
}
