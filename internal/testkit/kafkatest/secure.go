package kafkatest

import (
	"archive/zip"
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/pem"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"os/exec"
	"time"
)

//go:embed testdata/IamTokenValidator.java
var validatorSource []byte

// Files of a secure cluster, in its directory.
const (
	caFile       = "ca.pem"
	keystoreFile = "server.pem"
	validatorJar = "validator.jar"
)

func (c *Cluster) makeSecrets() error {
	if err := c.makeCertificate(); err != nil {
		return fmt.Errorf("making the brokers' certificate: %w", err)
	}
	return c.compileValidator()
}

// makeCertificate writes a self-signed certificate of 127.0.0.1, and the keystore that holds it and its key.
func (c *Cluster) makeCertificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "kafkatest"},
		NotBefore:    now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	store := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), cert...)
	if err := os.WriteFile(c.path(caFile), cert, 0o600); err != nil {
		return err
	}
	return os.WriteFile(c.path(keystoreFile), store, 0o600)
}

// compileValidator makes a jar of the validator of IAM tokens.
func (c *Cluster) compileValidator() error {
	source, classes := c.path("IamTokenValidator.java"), c.path("classes")
	if err := os.WriteFile(source, validatorSource, 0o600); err != nil {
		return err
	}
	if out, err := exec.Command(c.tools.javac, "-cp", c.tools.classpath, "-d", classes, source).CombinedOutput(); err != nil {
		return fmt.Errorf("compiling the IAM token validator: %w: %s", err, out)
	}
	var jar bytes.Buffer
	w := zip.NewWriter(&jar)
	if err := w.AddFS(os.DirFS(classes).(fs.ReadDirFS)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(c.path(validatorJar), jar.Bytes(), 0o600)
}

func (c *Cluster) secureProperties() map[string]string {
	const oauth = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"broker\";"
	return map[string]string{
		"ssl.keystore.type":                                                "PEM",
		"ssl.keystore.location":                                            c.path(keystoreFile),
		"sasl.enabled.mechanisms":                                          "SCRAM-SHA-512,OAUTHBEARER",
		"listener.name.scram.sasl.enabled.mechanisms":                      "SCRAM-SHA-512",
		"listener.name.scram.scram-sha-512.sasl.jaas.config":               "org.apache.kafka.common.security.scram.ScramLoginModule required;",
		"listener.name.iam.sasl.enabled.mechanisms":                        "OAUTHBEARER",
		"listener.name.iam.oauthbearer.sasl.jaas.config":                   oauth,
		"listener.name.iam.oauthbearer.sasl.server.callback.handler.class": "pulsegrid.test.IamTokenValidator",
		// MSK makes clients prove themselves again as well.
		"listener.name.iam.oauthbearer.connections.max.reauth.ms": "10000",
	}
}
