package kube

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// The errors of what the user may do, and the cluster still refuses.
var (
	// ErrNamespaceEnds means that nothing can be created in a namespace any more.
	ErrNamespaceEnds = errors.New("the namespace is being deleted")
	// ErrAdmission means that an admission controller, such as a quota, refuses something.
	ErrAdmission = errors.New("the cluster refuses it")
)

// admissionError is requestError for a request that changes something. The API server answers with
// the same status if the user may not do it and if an admission controller refuses it, so the
// former is asked for.
func (c *Cluster) admissionError(ctx context.Context, err error, a apiAction) error {
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return ErrNamespaceEnds
	case apierrors.IsForbidden(err) && c.may(ctx, a):
		return fmt.Errorf("%w: %w", ErrAdmission, apiText(err))
	}
	return c.requestError(ctx, err, a)
}
