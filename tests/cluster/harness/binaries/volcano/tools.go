//go:build tools

// Package tools pins Volcano in go.mod; `go install` needs a list of its versions, which not every
// proxy has.
package tools

import (
	_ "volcano.sh/volcano/cmd/controller-manager"
	_ "volcano.sh/volcano/cmd/scheduler"
)
