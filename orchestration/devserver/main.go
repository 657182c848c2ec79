// Command devserver runs a whole Temporal in one process: its services over a SQLite file, its web UI, one namespace with the
// search attributes that it is given. It listens on 127.0.0.1 only and asks nobody who they are: it is for this machine and for tests.
//
// It is a module of its own because Temporal's server brings about 1,800 packages, none of which belongs into PulseGrid's programs. Temporal's own command has such
// a server too, but cannot be installed by the Go client: its module has a replace directive. What is configured here follows what that
// command configures (github.com/temporalio/cli, internal/devserver, MIT); no code of it is here.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/persistence/sql/sqlplugin/sqlite"
	"go.temporal.io/server/common/primitives"
	schema "go.temporal.io/server/schema/sqlite"
	"go.temporal.io/server/temporal"
)

const (
	loopback = "127.0.0.1"
	// The cluster's name and id are in the database: a server of another name would not take the file.
	clusterName = "active"
	clusterID   = "6f1d3c52-0b5e-4f0e-9a53-9c1f9f2f7a10"
	storeName   = "sqlite"
)

// attributes are the namespace's search attributes, all of type Keyword.
type attributes map[string]enums.IndexedValueType

func (a attributes) String() string { return "" }
func (a attributes) Set(name string) error {
	a[name] = enums.INDEXED_VALUE_TYPE_KEYWORD
	return nil
}

func main() {
	keywords := attributes{}
	port := flag.Int("port", 7233, "the server's port, gRPC")
	uiPort := flag.Int("ui-port", 8233, "the UI's port")
	db := flag.String("db", "", "SQLite `file`, made where there is none; empty: in memory")
	namespace := flag.String("namespace", "default", "the namespace, made where there is none")
	flag.Var(keywords, "keyword", "`name` of a search attribute of type Keyword that the namespace gets when it is made; may be given several times")
	level := flag.String("log-level", "warn", "debug, info, warn or error")
	flag.Parse()
	if err := run(*port, *uiPort, *db, *namespace, keywords, *level); err != nil {
		fmt.Fprintln(os.Stderr, "devserver:", err)
		os.Exit(1)
	}
}

func run(port, uiPort int, db, namespace string, keywords attributes, level string) error {
	store, err := openStore(db, namespace, keywords)
	if err != nil {
		return err
	}
	services, hosts, err := services(port)
	if err != nil {
		return err
	}
	address := net.JoinHostPort(loopback, strconv.Itoa(port))
	conf := &config.Config{
		Global:   config.Global{Membership: config.Membership{MaxJoinDuration: 30 * time.Second, BroadcastAddress: loopback}},
		Services: services,
		Persistence: config.Persistence{
			DefaultStore: storeName, VisibilityStore: storeName, NumHistoryShards: 1,
			DataStores: map[string]config.DataStore{storeName: {SQL: store}},
		},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10, MasterClusterName: clusterName, CurrentClusterName: clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: address, ClusterID: clusterID},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Archival:            config.Archival{History: config.HistoryArchival{State: "disabled"}, Visibility: config.VisibilityArchival{State: "disabled"}},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History: config.HistoryArchivalNamespaceDefaults{State: "disabled"}, Visibility: config.VisibilityArchivalNamespaceDefaults{State: "disabled"},
		}},
		PublicClient: config.PublicClient{HostPort: address},
	}
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Level: level, Stdout: false, Format: "console"}))
	authorizer, err := authorization.GetAuthorizerFromConfig(&conf.Global.Authorization)
	if err != nil {
		return err
	}
	claims, err := authorization.GetClaimMapperFromConfig(&conf.Global.Authorization, logger)
	if err != nil {
		return err
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(conf),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorizer),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return claims }),
		temporal.WithDynamicConfigClient(dynamicconfig.StaticClient{
			// The default of 10 lists a second is for a store that many share.
			dynamicconfig.FrontendMaxNamespaceVisibilityRPSPerInstance.Key(): 100,
		}),
	)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	if err := server.Start(); err != nil {
		return fmt.Errorf("start on port %d over %q: %w", port, db, err)
	}
	ui := uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		Host: loopback, Port: uiPort, TemporalGRPCAddress: address, EnableUI: true, DefaultNamespace: namespace,
		CORS:     uiconfig.CORS{CookieInsecure: true}, // it is served without TLS
		HideLogs: true, DisableNewsFetch: true,
	}))
	ended := make(chan error, 1)
	go func() { ended <- ui.Start() }()
	fmt.Printf("Temporal at %s, its UI at http://%s\n", address, net.JoinHostPort(loopback, strconv.Itoa(uiPort)))
	select {
	case <-stop:
		ui.Stop()
	case err = <-ended:
		err = fmt.Errorf("the UI's server on port %d has ended: %w", uiPort, err)
	}
	return errors.Join(err, server.Stop())
}

// openStore makes the schema and the namespace where they are missing.
func openStore(file, namespace string, keywords attributes) (*config.SQL, error) {
	store := &config.SQL{PluginName: sqlite.PluginName, DatabaseName: "devserver", ConnectAttributes: map[string]string{"mode": "memory", "cache": "shared"}}
	if file != "" {
		if err := makeSchema(file); err != nil {
			return nil, err
		}
		// What was acknowledged survives any kill of the process; a loss of power may take the last moments.
		store.DatabaseName = file
		store.ConnectAttributes = map[string]string{"mode": "rwc", "journal_mode": "wal", "synchronous": "normal"}
	}
	made, err := schema.NewNamespaceConfig(clusterName, namespace, false, keywords)
	if err != nil {
		return nil, err
	}
	if err := schema.CreateNamespaces(store, made); err != nil {
		return nil, fmt.Errorf("make namespace %s in %q: %w", namespace, file, err)
	}
	return store, nil
}

// makeSchema makes the file beside its place and moves it there, so that a kill leaves no half of a schema.
func makeSchema(file string) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	fresh := file + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	store := &config.SQL{PluginName: sqlite.PluginName, DatabaseName: fresh, ConnectAttributes: map[string]string{"mode": "rwc"}}
	if err := schema.SetupSchema(store); err != nil {
		return fmt.Errorf("make the schema in %s: %w", fresh, err)
	}
	return os.Rename(fresh, file)
}

// services gives each of Temporal's services a port: the frontend the given one, the others free ones.
func services(port int) (map[string]config.Service, map[primitives.ServiceName]static.Hosts, error) {
	services, hosts := map[string]config.Service{}, map[primitives.ServiceName]static.Hosts{}
	for _, name := range []primitives.ServiceName{primitives.FrontendService, primitives.HistoryService, primitives.MatchingService, primitives.WorkerService} {
		at := port
		if name != primitives.FrontendService {
			ln, err := net.Listen("tcp", net.JoinHostPort(loopback, "0"))
			if err != nil {
				return nil, nil, err
			}
			// Held until all have one, so that no two get the same.
			defer func() { _ = ln.Close() }()
			_, text, _ := strings.Cut(ln.Addr().String(), ":")
			if at, err = strconv.Atoi(text); err != nil {
				return nil, nil, err
			}
		}
		services[string(name)] = config.Service{RPC: config.RPC{GRPCPort: at, BindOnIP: loopback}}
		hosts[name] = static.SingleLocalHost(net.JoinHostPort(loopback, strconv.Itoa(at)))
	}
	return services, hosts, nil
}
