// SPDX-License-Identifier: Apache-2.0

//go:build tools

// Package tools names what is built from this module beside its own program.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
