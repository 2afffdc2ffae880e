//go:build tools

// Package tools pins the controllers in go.mod; `go install` needs a list of their versions, which
// not every proxy has.
package tools

import (
	_ "sigs.k8s.io/jobset"
	_ "sigs.k8s.io/kueue/cmd/kueue"
)
