//go:build tools

// Package tools pins the JobSet controller in go.mod; `go install` needs a list of its versions,
// which not every proxy has.
package tools

import _ "sigs.k8s.io/jobset"
