package cli

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/pgsidecar/pgsidecar/sidecar/api"
)

// completeMembers lets a shell complete the names of members: as arguments, or, if
// it is named, as the flag's value. The person who presses the key waits, so nothing is
// said if no member answers.
func completeMembers(flags *clientFlags, cmd *cobra.Command, flag string) {
	names := func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		c, err := flags.client(cmd)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		st, err := c.Status(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return memberNames(st, args), cobra.ShellCompDirectiveNoFileComp
	}
	if flag == "" {
		cmd.ValidArgsFunction = names
		return
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, names); err != nil {
		panic(err) // the flag is defined by the caller
	}
}

// memberNames are the members with what they are, for a shell, without those named
// already.
func memberNames(st *api.Status, but []string) []string {
	var names []string
	for _, m := range st.Members {
		if !slices.Contains(but, m.Member) {
			names = append(names, m.Member+"\t"+string(m.Role))
		}
	}
	return names
}
