package tenant

import (
	"context"

	"go.opentelemetry.io/collector/client"
)

// Attributes of an Identity, for stock components that read them (client.Info.Auth).
const (
	AttrID         = "tenant.id"
	AttrClass      = "tenant.class"
	AttrCredential = "tenant.credential"
)

// Credentials by which a tenant proved who it is.
const (
	CredentialKey  = "api_key"
	CredentialOIDC = "oidc"
	CredentialMTLS = "mtls"
)

// Identity is the tenant that a request's credentials belong to. The authenticator puts it into client.Info.Auth.
type Identity struct {
	Tenant     *Tenant // never nil
	Credential string
}

var _ client.AuthData = Identity{}

// GetAttribute returns one of the attributes above, a string; nil for others.
func (i Identity) GetAttribute(name string) any {
	switch name {
	case AttrID:
		return i.Tenant.ID
	case AttrClass:
		return i.Tenant.Class
	case AttrCredential:
		return i.Credential
	}
	return nil
}

// GetAttributeNames lists the attributes.
func (Identity) GetAttributeNames() []string { return []string{AttrID, AttrClass, AttrCredential} }

// NewContext returns ctx with the identity in its client.Info.
func NewContext(ctx context.Context, i Identity) context.Context {
	info := client.FromContext(ctx)
	info.Auth = i
	return client.NewContext(ctx, info)
}

// FromContext returns the identity of the request that ctx belongs to; false where no credentials were asked for.
func FromContext(ctx context.Context) (Identity, bool) {
	i, ok := client.FromContext(ctx).Auth.(Identity)
	return i, ok
}
