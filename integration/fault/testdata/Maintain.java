import java.io.File;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.HashSet;
import java.util.UUID;
import org.apache.iceberg.CatalogProperties;
import org.apache.iceberg.DataFile;
import org.apache.iceberg.FileScanTask;
import org.apache.iceberg.Files;
import org.apache.iceberg.Snapshot;
import org.apache.iceberg.Table;
import org.apache.iceberg.UpdateProperties;
import org.apache.iceberg.catalog.SessionCatalog;
import org.apache.iceberg.catalog.TableIdentifier;
import org.apache.iceberg.data.Record;
import org.apache.iceberg.data.parquet.GenericParquetReaders;
import org.apache.iceberg.data.parquet.GenericParquetWriter;
import org.apache.iceberg.exceptions.CommitFailedException;
import org.apache.iceberg.exceptions.ValidationException;
import org.apache.iceberg.io.CloseableIterable;
import org.apache.iceberg.io.DataWriter;
import org.apache.iceberg.io.FileIO;
import org.apache.iceberg.io.InputFile;
import org.apache.iceberg.io.OutputFile;
import org.apache.iceberg.io.PositionOutputStream;
import org.apache.iceberg.io.SeekableInputStream;
import org.apache.iceberg.parquet.Parquet;
import org.apache.iceberg.rest.HTTPClient;
import org.apache.iceberg.rest.RESTSessionCatalog;
import org.apache.iceberg.rest.RESTUtil;

/**
 * What an engine does to a lake, by Iceberg's own library: it writes the files of a partition anew, drops properties and expires snapshots.
 * Maintain CATALOG_URL OBJECTS_DIR RETAIN TABLE... Prints the numbers of files written anew, of rewrites that others were faster than, and of snapshots expired.
 */
public class Maintain {
  /** Objects lie in a directory: those that the object store serves. */
  record Local(String objects) implements FileIO {
    File file(String path) { return new File(path.startsWith("s3://") ? objects + path.substring("s3:/".length()) : path.replaceFirst("^file://", "")); }

    public InputFile newInputFile(String path) {
      InputFile in = Files.localInput(file(path));
      return new InputFile() {
        public long getLength() { return in.getLength(); }
        public SeekableInputStream newStream() { return in.newStream(); }
        public String location() { return path; }
        public boolean exists() { return in.exists(); }
      };
    }

    public OutputFile newOutputFile(String path) {
      OutputFile out = Files.localOutput(file(path));
      return new OutputFile() {
        public PositionOutputStream create() { return out.create(); }
        public PositionOutputStream createOrOverwrite() { return out.createOrOverwrite(); }
        public String location() { return path; }
        public InputFile toInputFile() { return newInputFile(path); }
      };
    }

    public void deleteFile(String path) { file(path).delete(); }
  }

  static int rewritten, beaten, expired;

  public static void main(String[] args) throws Exception {
    FileIO io = new Local(args[1]);
    int retain = Integer.parseInt(args[2]);
    try (RESTSessionCatalog catalog = new RESTSessionCatalog(
        config -> HTTPClient.builder(config).uri(config.get(CatalogProperties.URI)).withHeaders(RESTUtil.configHeaders(config)).build(), (context, properties) -> io)) {
      catalog.initialize("pulsegrid", Map.of(CatalogProperties.URI, args[0]));
      for (String name : List.of(args).subList(3, args.length)) {
        Table table = catalog.loadTable(SessionCatalog.SessionContext.createEmpty(), TableIdentifier.of("pulsegrid", name));
        rewrite(table);
        drop(table);
        expire(table, retain);
      }
    }
    System.out.printf("{\"rewritten\": %d, \"beaten\": %d, \"expired\": %d}%n", rewritten, beaten, expired);
  }

  /** Writes the files of the partition that has most into one. */
  static void rewrite(Table table) throws Exception {
    table.refresh();
    Snapshot snapshot = table.currentSnapshot();
    if (snapshot == null) return;
    Map<String, List<FileScanTask>> partitions = new HashMap<>();
    try (CloseableIterable<FileScanTask> tasks = table.newScan().useSnapshot(snapshot.snapshotId()).planFiles()) {
      for (FileScanTask t : tasks)
        if (t.deletes().isEmpty() && t.file().specId() == table.spec().specId())
          partitions.computeIfAbsent(table.spec().partitionToPath(t.file().partition()), k -> new ArrayList<>()).add(t);
    }
    List<FileScanTask> most = partitions.values().stream().max((a, b) -> a.size() - b.size()).orElse(List.of());
    if (most.size() < 2) return;
    var partition = most.get(0).file().partition();
    OutputFile out = table.io().newOutputFile(table.locationProvider().newDataLocation(table.spec(), partition, UUID.randomUUID() + ".parquet"));
    DataWriter<Record> writer = Parquet.writeData(out).forTable(table).withPartition(partition).createWriterFunc(GenericParquetWriter::create).overwrite().build();
    Set<DataFile> old = new HashSet<>();
    try (writer) {
      for (FileScanTask t : most) {
        old.add(t.file());
        try (CloseableIterable<Record> rows = Parquet.read(table.io().newInputFile(t.file().location())).project(table.schema())
            .createReaderFunc(file -> GenericParquetReaders.buildReader(table.schema(), file)).build()) {
          for (Record row : rows) writer.write(row);
        }
      }
    }
    try {
      table.newRewrite().validateFromSnapshot(snapshot.snapshotId()).rewriteFiles(old, Set.of(writer.toDataFile())).commit();
      rewritten += old.size();
    } catch (ValidationException | CommitFailedException e) {
      table.io().deleteFile(out.location());
      beaten++;
    }
  }

  /** Drops the properties that the exporter keeps. */
  static void drop(Table table) {
    try {
      UpdateProperties update = table.updateProperties();
      table.properties().keySet().stream().filter(k -> k.startsWith("pulsegrid.offset.")).forEach(update::remove);
      update.commit();
    } catch (CommitFailedException e) {
      beaten++;
    }
  }

  static void expire(Table table, int retain) {
    try {
      table.refresh();
      int before = snapshots(table);
      table.expireSnapshots().expireOlderThan(System.currentTimeMillis()).retainLast(retain).cleanExpiredFiles(true).commit();
      table.refresh();
      expired += Math.max(0, before - snapshots(table));
    } catch (CommitFailedException e) {
      beaten++;
    }
  }

  static int snapshots(Table table) {
    int n = 0;
    for (Snapshot s : table.snapshots()) n++;
    return n;
  }
}
